package registryserver

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/chartroom-dev/chartroom/registryserver/web"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// AboutConfig is what the registry is called, for people who look at its pages.
type AboutConfig struct {
	// DisplayName is a title of at most 128 characters. Default: the registry's name.
	DisplayName string `yaml:"displayName"`
	// Description says what the registry is for, in at most 1024 characters.
	Description string `yaml:"description"`
	// Emoji is one, shown beside the title.
	Emoji string `yaml:"emoji"`
	// Color is behind the emoji: "#" and six hexadecimal digits.
	Color string `yaml:"color"`
	// File is a document of the operator's with the same, for what is not set here. It is read again when it changes.
	// Default: about.json beside access.file; it need not be there.
	File string `yaml:"file"`
}

const (
	maxDisplayName = 128
	maxDescription = 1024
	// maxEmoji is enough for those that are put together of several characters.
	maxEmoji = 16
)

var color = regexp.MustCompile(`^#[0-9a-fA-F]{6}$`)

func (c AboutConfig) validate(refuse func(field, format string, args ...any)) {
	for _, t := range []struct {
		field, text string
		most        int
	}{
		{"about.displayName", c.DisplayName, maxDisplayName}, {"about.description", c.Description, maxDescription}, {"about.emoji", c.Emoji, maxEmoji},
	} {
		if utf8.RuneCountInString(t.text) > t.most || !utf8.ValidString(t.text) || strings.ContainsFunc(t.text, unicode.IsControl) {
			refuse(t.field, "must be at most %d characters in one line", t.most)
		}
	}
	if c.Color != "" && !color.MatchString(c.Color) {
		refuse("about.color", "%q is not a colour such as #f0ccff", c.Color)
	}
}

// authority is a ConfigMap, as namespace/name.
var authority = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

// aboutFresh is how long it is not looked whether the file has changed.
const aboutFresh = 2 * time.Second

// about is what the registry is called, by the configuration and by a file that may change.
type about struct {
	config    AboutConfig
	authority string
	log       *slog.Logger

	mu sync.Mutex
	// looked is when the file was looked at last, and document what it held then; told is the last that was good.
	looked   time.Time
	document []byte
	told     wire.Presentation
}

func newAbout(c Config, log *slog.Logger) *about {
	return &about{config: c.About, authority: c.TLS.Authority, log: log}
}

// get is for web.Options.
func (a *about) get() web.About {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.looked) > aboutFresh {
		a.looked = now
		if err := a.look(); err != nil {
			a.log.Warn("what the registry is called was not taken", "file", a.config.File, "problem", err)
		}
	}
	return web.About{
		DisplayName: cmp.Or(a.config.DisplayName, a.told.DisplayName), Description: cmp.Or(a.config.Description, a.told.Description),
		Emoji: cmp.Or(a.config.Emoji, a.told.Emoji), Color: cmp.Or(a.config.Color, a.told.Color), Authority: cmp.Or(a.authority, a.told.Authority),
	}
}

// look takes the file, if it is not as it was.
func (a *about) look() error {
	document, err := os.ReadFile(a.config.File)
	if errors.Is(err, fs.ErrNotExist) {
		a.told, a.document = wire.Presentation{}, nil
		return nil
	}
	if err != nil {
		return err
	}
	if bytes.Equal(document, a.document) {
		return nil
	}
	a.document = document
	told, err := wire.DecodePresentation(document)
	if err != nil {
		return err
	}
	var problems []error
	AboutConfig{DisplayName: told.DisplayName, Description: told.Description, Emoji: told.Emoji, Color: told.Color}.validate(func(field, format string, args ...any) {
		problems = append(problems, fmt.Errorf(field+": "+format, args...))
	})
	if told.Authority != "" && !authority.MatchString(told.Authority) {
		problems = append(problems, errors.New("authority: it is not the name of a ConfigMap"))
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	a.told = told
	return nil
}

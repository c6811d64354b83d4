package registryserver

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
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

// about is what the registry is called, by the configuration and by what the operator tells.
type about struct {
	config    AboutConfig
	authority string
	told      *told[wire.Presentation]
}

func newAbout(c Config, log *slog.Logger) *about {
	return &about{config: c.About, authority: c.TLS.Authority, told: &told[wire.Presentation]{
		file: c.About.File, decode: decodePresentation, problem: "what the registry is called was not taken", log: log,
	}}
}

// get is for web.Options.
func (a *about) get() web.About {
	told := a.told.get()
	return web.About{
		DisplayName: cmp.Or(a.config.DisplayName, told.DisplayName), Description: cmp.Or(a.config.Description, told.Description),
		Emoji: cmp.Or(a.config.Emoji, told.Emoji), Color: cmp.Or(a.config.Color, told.Color), Authority: cmp.Or(a.authority, told.Authority),
	}
}

func decodePresentation(document []byte) (wire.Presentation, error) {
	told, err := wire.DecodePresentation(document)
	if err != nil {
		return told, err
	}
	var problems []error
	AboutConfig{DisplayName: told.DisplayName, Description: told.Description, Emoji: told.Emoji, Color: told.Color}.validate(func(field, format string, args ...any) {
		problems = append(problems, fmt.Errorf(field+": "+format, args...))
	})
	if told.Authority != "" && !authority.MatchString(told.Authority) {
		problems = append(problems, errors.New("authority: it is not the name of a ConfigMap"))
	}
	return told, errors.Join(problems...)
}

package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"html/template"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets/*
var assetFiles embed.FS

// view is what all templates are given.
type view struct {
	h      *Handler
	Title  string
	About  About
	Name   string // of the registry, for people.
	Public bool
	Viewer viewer
	// Here is the address of the page.
	Here string
	// Chart is the path of the chart that the page is about; may be empty.
	Chart string
	// Section is the page's kind, by the last element of its pattern.
	Section string
	Body    any
}

// render answers with a page.
func (h *Handler) render(w http.ResponseWriter, r *request, status int, name, title string, body any) error {
	v := view{
		h: h, Title: title, About: h.o.About(), Name: h.displayName(), Public: h.o.Access.Public(), Viewer: r.viewer,
		Here: r.URL.RequestURI(), Chart: r.chart, Section: path.Base(r.kind.pattern), Body: body,
	}
	if r.Method == http.MethodPost {
		v.Here = r.URL.Path
	}
	// Whole before the first byte: one that fails is an error and not half a page.
	var page pieces
	if err := h.pages()[name].ExecuteTemplate(&page, "layout", v); err != nil {
		err = fmt.Errorf("make the page %s: %w", name, err)
		if name == "error" {
			h.o.Logger.ErrorContext(r.Context(), "a page could not be made", "error", err)
			http.Error(w, title, status)
			return nil
		}
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(page.size))
	w.WriteHeader(status)
	page.send(w)
	return nil
}

// pieces is a page. A slow client takes its time, so it takes no more memory than it has bytes, and ever less.
type pieces struct {
	all  [][]byte
	size int
}

const pieceBytes = 16 << 10

// Write implements io.Writer.
func (p *pieces) Write(b []byte) (int, error) {
	p.size += len(b)
	for rest := b; len(rest) > 0; {
		last := len(p.all) - 1
		if last < 0 || len(p.all[last]) == pieceBytes {
			p.all = append(p.all, make([]byte, 0, pieceBytes))
			last++
		}
		n := min(len(rest), pieceBytes-len(p.all[last]))
		p.all[last] = append(p.all[last], rest[:n]...)
		rest = rest[n:]
	}
	return len(b), nil
}

// send lets go of each piece that it sends.
func (p *pieces) send(w io.Writer) {
	for i, piece := range p.all {
		p.all[i] = nil
		if _, err := w.Write(piece); err != nil {
			return // The client is gone, and nobody is left to tell.
		}
	}
}

// Registry is the address of the registry's page.
func (v view) Registry() string { return v.h.registryPath() }

// OCI is the registry's address for helm.
func (v view) OCI() string { return "oci://" + v.h.o.ExternalURL.Host + v.h.registryPath() }

// Path is organization/registry.
func (v view) Path() string { return strings.TrimPrefix(v.h.registryPath(), "/") }

// Storage says where the content is kept.
func (v view) Storage() string { return v.h.o.Storage }

// ChartURL is the address of a chart.
func (v view) ChartURL(chart string) string { return v.h.chartURL(chart) }

// URL is the address of a version, or of a tab of it.
func (v view) URL(chart, reference, tab string) string { return v.h.versionURL(chart, reference, tab) }

// SignIn is where one signs in to come back to this page.
func (v view) SignIn() string { return signInURL(v.Here) }

// Asset is the address of a file of the pages.
func (v view) Asset(name string) string { return v.h.assets.urls[name] }

// assets are the files of the pages, each under an address that has a part of its digest in it.
type assets struct {
	urls     map[string]string
	contents map[string][]byte
}

func readAssets() assets {
	a := assets{urls: map[string]string{}, contents: map[string][]byte{}}
	entries, err := assetFiles.ReadDir("assets")
	if err != nil {
		panic(err) // They are part of the program.
	}
	for _, e := range entries {
		content, err := assetFiles.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		file := hex.EncodeToString(sum[:6]) + "-" + e.Name()
		a.urls[e.Name()], a.contents[file] = assetsPath+file, content
	}
	return a
}

// asset serves a file of the pages.
func (h *Handler) asset(w http.ResponseWriter, r *request) error {
	content, ok := h.assets.contents[r.file]
	if !ok {
		return errNotFound
	}
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	w.Header().Set("Content-Type", types[path.Ext(r.file)])
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.Header().Del("Vary")
	// Another content has another address.
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(content) // When the client is gone, nobody is left to tell.
	return nil
}

func parsePages() map[string]*template.Template {
	layout := template.Must(template.New("").Funcs(template.FuncMap{
		"size": size, "count": count, "number": number, "hue": hue, "initial": initial, "version": versionOf, "short": short, "join": strings.Join,
		"date":   func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
		"minute": func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
		"day":    func(t time.Time) string { return t.UTC().Format("2 Jan 2006") },
		"iso":    func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"add":    func(a, b int) int { return a + b },
		"link":   linkTo,
		"took":   tookAbout, "mood": mood, "message": message,
		"happened": func(e receivers.Event) string { return happened[e] },
	}).ParseFS(templateFiles, "templates/layout.html", "templates/parts.html"))
	all := map[string]*template.Template{}
	entries, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // They are part of the program.
	}
	for _, e := range entries {
		if e.Name() == "layout.html" || e.Name() == "parts.html" {
			continue
		}
		all[strings.TrimSuffix(e.Name(), ".html")] = template.Must(template.Must(layout.Clone()).ParseFS(templateFiles, "templates/"+e.Name()))
	}
	return all
}

// size writes bytes as people read them.
func size(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, unit := float64(n), 0
	for value >= 1024 && unit < 5 {
		value /= 1024
		unit++
	}
	digits := 1
	if value >= 100 {
		digits = 0
	}
	return strings.TrimSuffix(strconv.FormatFloat(value, 'f', digits, 64), ".0") + " " + []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}[unit]
}

// number writes a whole number with a narrow space between each three digits.
func number(n any) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

// count writes a number with what is counted.
func count(n any, one string) string {
	text := fmt.Sprint(n)
	if text == "1" {
		return "1 " + one
	}
	return number(n) + " " + one + "s"
}

// hue is one of eight colours, always the same for a name.
func hue(name string) int {
	sum := fnv.New32a()
	_, _ = io.WriteString(sum, name) // It never fails.
	return int(sum.Sum32() % 8)
}

// initial is what stands for a chart that has no picture.
func initial(name string) string {
	r, _ := utf8.DecodeRuneInString(path.Base(name))
	return string(unicode.ToUpper(r))
}

// short is a digest in few characters.
func short(digest any) string {
	text := fmt.Sprint(digest)
	if algorithm, hash, ok := strings.Cut(text, ":"); ok && len(hash) > 12 {
		return algorithm + ":" + hash[:12] + "…"
	}
	return text
}

func readerOf(content []byte) io.Reader { return bytes.NewReader(content) }

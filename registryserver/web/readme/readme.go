// Package readme makes HTML of READMEs that strangers wrote, in Markdown. What comes out has no scripts, styles, images or
// forms, loads nothing, and cannot stand in for a part of the page around it. What could be slow is not tried.
package readme

import (
	"bytes"
	"context"
	"errors"
	"html/template"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/microcosm-cc/bluemonday"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// idPrefix begins the id of each heading, so that none is that of something else on the page.
const idPrefix = "user-content-"

// Renderer makes HTML, a few READMEs at a time. Make it with New.
type Renderer struct {
	workers  chan struct{}
	patience time.Duration
	markdown goldmark.Markdown
	policy   *bluemonday.Policy
}

// New returns a Renderer that works on so many READMEs at once, and gives up on one after patience.
func New(workers int, patience time.Duration) *Renderer {
	return &Renderer{
		workers:  make(chan struct{}, workers),
		patience: patience,
		markdown: goldmark.New(
			goldmark.WithExtensions(
				// Style attributes, which are the default, are not allowed on the pages.
				extension.NewTable(extension.WithTableCellAlignMethod(extension.TableCellAlignAttribute)),
				extension.Strikethrough,
				extension.NewLinkify(extension.WithLinkifyAllowedProtocols([]string{"http:", "https:"})),
			),
			goldmark.WithParserOptions(parser.WithAutoHeadingID(), parser.WithASTTransformers(util.Prioritized(tamer{}, 1000))),
		),
		policy: policy(),
	}
}

// policy is what may come out, whatever goldmark does.
func policy() *bluemonday.Policy {
	p := bluemonday.NewPolicy()
	p.AllowElements("p", "br", "hr", "h2", "h3", "h4", "h5", "h6", "ul", "li", "strong", "em", "del", "code", "pre", "blockquote", "table", "thead", "tbody", "tr")
	p.AllowAttrs("id").Matching(regexp.MustCompile(`^`+idPrefix+`[a-z0-9-]+$`)).OnElements("h2", "h3", "h4", "h5", "h6")
	p.AllowAttrs("start").Matching(bluemonday.Integer).OnElements("ol")
	p.AllowElements("ol", "th", "td")
	p.AllowAttrs("align").Matching(regexp.MustCompile(`^(left|center|right)$`)).OnElements("th", "td")
	p.AllowURLSchemes("http", "https", "mailto")
	p.AllowRelativeURLs(true) // Those within the README: tamer leaves no others.
	p.AllowAttrs("href").OnElements("a")
	p.RequireParseableURLs(true)
	p.RequireNoFollowOnLinks(true)
	p.RequireNoReferrerOnLinks(true)
	return p
}

// Render returns the HTML of a README; false where it is to be shown as the text that it is: it is too large, too intricate,
// or takes too long.
func (r *Renderer) Render(ctx context.Context, source []byte) (template.HTML, bool) {
	if !Simple(source) {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	select {
	case r.workers <- struct{}{}:
	case <-ctx.Done():
		return "", false
	}
	done := make(chan template.HTML, 1)
	go func() {
		defer func() { <-r.workers }()
		defer close(done)
		// A parser of what strangers wrote may have a flaw; it costs them their README and nobody else anything.
		defer func() { _ = recover() }()
		if html, err := r.render(source); err == nil {
			done <- html
		}
	}()
	select {
	case html, ok := <-done:
		return html, ok
	case <-ctx.Done():
		return "", false
	}
}

func (r *Renderer) render(source []byte) (template.HTML, error) {
	var b bounded
	if err := r.markdown.Convert(source, &b, parser.WithContext(parser.NewContext(parser.WithIDs(ids{})))); err != nil {
		return "", err
	}
	html := r.policy.SanitizeBytes(b.html.Bytes())
	if len(html) > maxHTMLBytes {
		return "", errTooLarge
	}
	return template.HTML(html), nil //nolint:gosec // It is what the policy lets through.
}

// bounded takes maxHTMLBytes at most: a link of three bytes brings along the whole address that it refers to.
type bounded struct{ html bytes.Buffer }

// errTooLarge is that of HTML over the bound.
var errTooLarge = errors.New("the HTML is too large")

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.html.Len()+len(p) > maxHTMLBytes {
		return 0, errTooLarge
	}
	return b.html.Write(p)
}

// Bounds on what is tried. Parsers of Markdown go back and forth within a block over what can begin or end an emphasis or
// a link, and through all containers that a line is in.
const (
	maxBytes = 256 << 10
	// maxHTMLBytes bounds what becomes of one.
	maxHTMLBytes = 3 << 20
	maxMarks     = 2000
	maxNesting   = 100
	// maxCells bounds those of a table, whose rows are all made as wide as the widest.
	maxCells = 20_000
)

// Simple reports that a README can be rendered in a time that grows with its length alone. It looks at each byte once.
func Simple(source []byte) bool {
	if len(source) > maxBytes {
		return false
	}
	marks, lines, widest := 0, 0, 0 // Of a block.
	for line := range bytes.Lines(source) {
		if len(bytes.TrimSpace(line)) == 0 {
			marks, lines, widest = 0, 0, 0
			continue
		}
		if nesting(line) > maxNesting {
			return false
		}
		for _, c := range line {
			switch c {
			case '*', '_', '~', '[', ']', '!', '<', '&':
				marks++
			}
		}
		lines++
		widest = max(widest, bytes.Count(line, []byte("|")))
		if marks > maxMarks || lines*widest > maxCells {
			return false
		}
	}
	return true
}

// nesting is how deep in lists and quotes a line can be.
func nesting(line []byte) int {
	spaces, depth := 0, 0
	for i := range line {
		switch c := line[i]; {
		case c == ' ':
			spaces++
		case c == '\t':
			spaces += 4
		case c == '>':
			depth++
		case (c == '-' || c == '*' || c == '+') && i+1 < len(line) && (line[i+1] == ' ' || line[i+1] == '\t'):
			depth++
		case '0' <= c && c <= '9', c == '.' || c == ')':
			// Of the number of a list's item, the mark behind it counts.
			if c == '.' || c == ')' {
				depth++
			}
		default:
			return depth + spaces/2
		}
	}
	return depth + spaces/2
}

// ids makes the ids of headings.
type ids map[string]bool

// Generate implements parser.IDs.
func (all ids) Generate(value []byte, _ ast.NodeKind) []byte {
	var b strings.Builder
	for _, c := range strings.ToLower(string(value)) {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			b.WriteRune(c)
		case c == ' ' || c == '-':
			b.WriteByte('-')
		}
		if b.Len() == 100 {
			break
		}
	}
	id := b.String()
	if id == "" {
		id = "heading"
	}
	unique := id
	// The number goes on from how many there are, so that a thousand of the same are no million of tries.
	for n := len(all); all[unique]; n++ {
		unique = id + "-" + strconv.Itoa(n)
	}
	all[unique] = true
	return []byte(idPrefix + unique)
}

// Put implements parser.IDs.
func (all ids) Put([]byte) {}

// tamer changes a README so that it fits into a page: headings stand below the page's own, images are links to them, and
// links lead to other sites or to headings.
type tamer struct{}

// Transform implements parser.ASTTransformer.
func (tamer) Transform(document *ast.Document, _ text.Reader, _ parser.Context) {
	var links, images []ast.Node
	// The walk returns no error, as the function returns none.
	_ = ast.Walk(document, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			n.Level = min(n.Level+1, 6)
		case *ast.Link:
			links = append(links, n)
		case *ast.Image:
			images = append(images, n)
		}
		return ast.WalkContinue, nil
	})
	for _, n := range images {
		image, _ := n.(*ast.Image)
		if within(n, ast.KindLink) || !leadsAway(image.Destination) {
			unwrap(n)
			continue
		}
		link := ast.NewLink()
		link.Destination = image.Destination
		if !n.HasChildren() {
			link.AppendChild(link, ast.NewString([]byte("image")))
		}
		for child := n.FirstChild(); child != nil; child = n.FirstChild() {
			link.AppendChild(link, child)
		}
		n.Parent().ReplaceChild(n.Parent(), n, link)
	}
	for _, n := range links {
		link, _ := n.(*ast.Link)
		switch {
		case len(link.Destination) > 1 && link.Destination[0] == '#':
			link.Destination = []byte("#" + idPrefix + strings.ToLower(string(link.Destination[1:])))
		case !leadsAway(link.Destination):
			unwrap(n)
		}
	}
}

// leadsAway reports addresses of other sites, and of people.
func leadsAway(destination []byte) bool {
	u, err := url.Parse(string(destination))
	return err == nil && (u.Host != "" && (u.Scheme == "https" || u.Scheme == "http") || u.Scheme == "mailto")
}

func within(n ast.Node, kind ast.NodeKind) bool {
	for p := n.Parent(); p != nil; p = p.Parent() {
		if p.Kind() == kind {
			return true
		}
	}
	return false
}

// unwrap leaves of a node what is in it.
func unwrap(n ast.Node) {
	parent := n.Parent()
	for child := n.FirstChild(); child != nil; child = n.FirstChild() {
		parent.InsertBefore(parent, n, child)
	}
	parent.RemoveChild(parent, n)
}

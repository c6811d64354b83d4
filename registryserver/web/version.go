package web

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/chartroom-dev/chartroom/registryserver/web/linediff"
	"github.com/chartroom-dev/chartroom/registryserver/web/snippets"
	"github.com/chartroom-dev/chartroom/registryserver/web/yamltext"
)

const (
	// maxShownLines and maxShownBytes bound a text on a page, or what changed in one.
	maxShownLines = 5000
	maxShownBytes = 256 << 10
	// maxReferrers bounds those that are shown, maxReferrersBytes about what is read of them, and maxTypeBytes the type of each.
	maxReferrers      = 200
	maxReferrersBytes = 4 << 20
	maxTypeBytes      = 255
	// maxOffered is how many other versions a form suggests.
	maxOffered = 50
)

// versionPage is what all pages of a version have in common.
type versionPage struct {
	*artifact
	Tabs []tab
	// Tab is what the page shows of it.
	Tab string
	// Body is for the template of the tab, and Problem why there is none.
	Body    any
	Problem string
	// Latest is another version that is newer; empty where this is the latest.
	Latest    string
	LatestURL string
	Links     []link
	License   string
	Icon      string
}

// link is one that somebody wrote into a chart. URL is empty where it is none that leads to a page.
type link struct{ Text, URL, Title string }

type tab struct {
	Name, URL string
	Current   bool
}

// page renders a tab.
func (h *Handler) page(w http.ResponseWriter, r *request, a *artifact, name string, body any, problem string) error {
	p := versionPage{artifact: a, Tab: name, Body: body, Problem: problem, License: a.Details.Annotation("artifacthub.io/license")}
	for _, t := range a.tabs() {
		p.Tabs = append(p.Tabs, tab{Name: t.name, URL: h.versionURL(a.Name, a.Reference, t.path), Current: t.path == name})
	}
	if c, ok := h.o.Inventory.Chart(a.Name); ok && a.Tag != "" && c.Latest.Tag != a.Tag {
		p.Latest, p.LatestURL = versionOf(c.Latest.Tag), h.versionURL(a.Name, c.Latest.Tag, name)
	}
	d := a.Details
	if d.Home != "" {
		p.Links = append(p.Links, linkTo("Home", d.Home))
	}
	for _, s := range d.Sources {
		p.Links = append(p.Links, linkTo("Source", s))
	}
	title := a.Name + " " + a.Version()
	if name != "" {
		title += " · " + name
	}
	return h.render(w, r, http.StatusOK, "version", title, p)
}

// linkTo makes a link of what may be an address of another site, and text of anything else.
func linkTo(title, address string) link {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return link{Text: address, Title: title}
	}
	return link{Text: strings.TrimSuffix(strings.TrimPrefix(address, u.Scheme+"://"), "/"), URL: u.String(), Title: title}
}

type tabName struct{ path, name string }

func (a *artifact) tabs() []tabName {
	all := []tabName{{"", "Overview"}, {"versions", "Versions"}, {"signatures", "Signatures & attestations"}, {"manifest", "Manifest"}}
	if a.IsChart() {
		all[0].name = "Installation"
		all = slices.Insert(all, 1, tabName{"readme", "README"}, tabName{"values", "Values"}, tabName{"schema", "Schema"}, tabName{"templates", "Templates"}, tabName{"dependencies", "Dependencies"})
	}
	return all
}

func (h *Handler) installation(w http.ResponseWriter, r *request, a *artifact) error {
	if !a.IsChart() {
		return h.page(w, r, a, "", nil, "")
	}
	c := snippets.Chart{Name: a.Name, Digest: a.Manifest.Digest.String(), Library: a.Details.Type == "library"}
	if a.Tag != "" {
		c.Version = versionOf(a.Tag)
	}
	return h.page(w, r, a, "", h.clients().Install(c), "")
}

// readmeBody is a README as HTML, or as the text that it is.
type readmeBody struct {
	HTML template.HTML
	Text string
	Size int64
	// Missing is true where there is no README, TooLarge where it is not shown at all.
	Missing, TooLarge bool
}

func (h *Handler) readme(w http.ResponseWriter, r *request, a *artifact) error {
	if !a.IsChart() {
		return errNotFound
	}
	key := a.Name + " readme " + a.Archive.Digest.String()
	if found, ok := h.cache.get(key); ok {
		return h.page(w, r, a, "readme", found, "")
	}
	c, problem, err := h.contents(r.Context(), a)
	if problem != "" || err != nil {
		return h.problem(w, r, a, "readme", problem, err)
	}
	b := readmeBody{Size: c.README.Size, Missing: c.README.Name == ""}
	b.TooLarge = !b.Missing && c.README.Content == nil
	if html, ok := h.readmes().Render(r.Context(), c.README.Content); ok {
		b.HTML = html
		h.cache.put(key, b, len(html))
	} else {
		b.Text = strings.ToValidUTF8(string(c.README.Content[:min(len(c.README.Content), maxShownBytes)]), "\uFFFD")
	}
	return h.page(w, r, a, "readme", b, "")
}

func (h *Handler) problem(w http.ResponseWriter, r *request, a *artifact, name, problem string, err error) error {
	if err != nil {
		return err
	}
	return h.page(w, r, a, name, nil, problem)
}

// textBody is a text with numbered lines.
type textBody struct {
	chart.Text
	Lines []yamltext.Line
	// More is how many lines are not shown.
	More int
	// Download is the address of the whole; may be empty.
	Download string
}

func shown(t chart.Text) textBody {
	b := textBody{Text: t}
	read := yamltext.YAML
	if strings.HasSuffix(t.Name, ".json") {
		read = yamltext.JSON
	}
	lines, end := 0, 0
	for line := range bytes.Lines(t.Content) {
		if lines == maxShownLines || end+len(line) > maxShownBytes {
			break
		}
		lines++
		end += len(line)
	}
	// No line is shown in part, unless it is longer than all that is.
	if lines == 0 {
		end = min(len(t.Content), maxShownBytes)
	}
	for range bytes.Lines(t.Content[end:]) {
		b.More++
	}
	b.Lines = read(strings.ToValidUTF8(string(t.Content[:end]), "\uFFFD"))
	return b
}

// valuesBody are the values of a version, or what changed in them since another one.
type valuesBody struct {
	textBody
	// Others are versions to compare with; Against is the one that was asked for, and Places are what changed.
	Others  []string
	Against string
	Places  [][]linediff.Line
	Added   int
	Removed int
	// Problem is why they cannot be compared.
	Problem string
}

func (h *Handler) values(w http.ResponseWriter, r *request, a *artifact) error {
	if !a.IsChart() {
		return errNotFound
	}
	c, problem, err := h.contents(r.Context(), a)
	if problem != "" || err != nil {
		return h.problem(w, r, a, "values", problem, err)
	}
	b := valuesBody{Against: clip(strings.TrimSpace(r.URL.Query().Get("against")), maxSearchBytes)}
	if err := h.list(r.Context(), func() {
		for _, v := range h.o.Inventory.Versions(a.Name) {
			if v.Chart && v.Tag != a.Tag && len(b.Others) < maxOffered {
				b.Others = append(b.Others, versionOf(v.Tag))
			}
		}
	}); err != nil {
		return err
	}
	if b.Against == "" {
		b.textBody = shown(c.Values)
		b.Download = h.versionURL(a.Name, a.Reference, valuesFile)
		return h.page(w, r, a, "values", b, "")
	}
	if err := h.compare(r, a, c, &b); err != nil {
		return err
	}
	return h.page(w, r, a, "values", b, "")
}

// compare finds out what changed since the version that was asked for.
func (h *Handler) compare(r *request, a *artifact, c *chart.Contents, b *valuesBody) error {
	other, err := h.artifact(r.Context(), a.Name, b.Against)
	if err == nil && !other.IsChart() {
		err = errNotFound
	}
	if err != nil {
		if translate(err) != errNotFound {
			return err
		}
		b.Problem = "There is no such version of this chart."
		return nil
	}
	before, problem, err := h.contents(r.Context(), other)
	if problem != "" || err != nil {
		b.Problem = problem
		return err
	}
	b.Places, err = linediff.Compare(strings.ToValidUTF8(string(before.Values.Content), "\uFFFD"), strings.ToValidUTF8(string(c.Values.Content), "\uFFFD"))
	if errors.Is(err, linediff.ErrTooLarge) || before.Values.Size > chart.MaxTextBytes || c.Values.Size > chart.MaxTextBytes {
		b.Places, b.Problem = nil, "The values are too large to be compared."
		return nil
	}
	for _, place := range b.Places {
		for _, l := range place {
			switch l.Op {
			case linediff.Added:
				b.Added++
			case linediff.Removed:
				b.Removed++
			}
		}
	}
	var whole bool
	if b.Places, whole = beginning(b.Places); !whole {
		b.Problem = "More changed than can be shown here: this is the beginning of it."
	}
	return err
}

// beginning is what a page shows of what changed. The last line is shown in part where it is too long.
func beginning(places [][]linediff.Line) (shown [][]linediff.Line, whole bool) {
	lines, room := 0, maxShownBytes
	for i, place := range places {
		for j := range place {
			switch l := &place[j]; {
			case lines == maxShownLines:
				return append(places[:i], place[:j]), false
			case len(l.Text) > room:
				l.Text = clip(l.Text, room) + "…"
				return append(places[:i], place[:j+1]), false
			}
			lines++
			room -= len(place[j].Text)
		}
	}
	return places, true
}

func (h *Handler) schema(w http.ResponseWriter, r *request, a *artifact) error {
	if !a.IsChart() {
		return errNotFound
	}
	c, problem, err := h.contents(r.Context(), a)
	if problem != "" || err != nil {
		return h.problem(w, r, a, "schema", problem, err)
	}
	return h.page(w, r, a, "schema", shown(c.Schema), "")
}

// templatesBody are the templates of a chart, and the text of one.
type templatesBody struct {
	Templates []chart.File
	// Unnamed is how many files are not shown.
	Unnamed int
	File    *textBody
}

func (h *Handler) templates(w http.ResponseWriter, r *request, a *artifact) error {
	if !a.IsChart() {
		return errNotFound
	}
	c, problem, err := h.contents(r.Context(), a)
	if problem != "" || err != nil {
		return h.problem(w, r, a, "templates", problem, err)
	}
	b := templatesBody{Templates: c.Templates, Unnamed: c.Unnamed}
	if name := r.URL.Query().Get("file"); name != "" {
		if !slices.ContainsFunc(c.Templates, func(f chart.File) bool { return f.Name == name }) {
			return errNotFound
		}
		var text chart.Text
		if problem, err := h.withArchive(r.Context(), a, func(archive io.Reader, size int64) (err error) {
			text, err = chart.ReadText(r.Context(), archive, size, name)
			return err
		}); problem != "" || err != nil {
			return h.problem(w, r, a, "templates", problem, err)
		}
		file := shown(text)
		b.File = &file
	}
	return h.page(w, r, a, "templates", b, "")
}

// dependenciesBody are what a chart depends on, and what of it comes with the archive.
type dependenciesBody struct {
	Dependencies []dependency
	Bundled      []string
	// Unnamed is how many files of the archive are not shown.
	Unnamed int
}

type dependency struct {
	chart.Dependency
	// Repository is where it comes from; URL leads to it where it is in this registry, or a site.
	Link link
}

func (h *Handler) dependencies(w http.ResponseWriter, r *request, a *artifact) error {
	if !a.IsChart() {
		return errNotFound
	}
	c, problem, err := h.contents(r.Context(), a)
	if problem != "" || err != nil {
		return h.problem(w, r, a, "dependencies", problem, err)
	}
	b := dependenciesBody{Bundled: c.Bundled, Unnamed: c.Unnamed}
	own := "oci://" + h.o.ExternalURL.Host + h.registryPath()
	for _, d := range a.Details.Dependencies {
		e := dependency{Dependency: d, Link: linkTo("", d.Repository)}
		if below, ok := strings.CutPrefix(d.Repository, own); ok && (below == "" || below[0] == '/') {
			name := strings.TrimPrefix(below+"/"+d.Name, "/")
			if _, ok := h.o.Inventory.Chart(name); ok && h.mayRead(r.viewer, name) {
				e.Link = link{Text: d.Repository, URL: h.chartURL(name)}
			}
		}
		b.Dependencies = append(b.Dependencies, e)
	}
	return h.page(w, r, a, "dependencies", b, "")
}

// versionsBody are the tags of a repository.
type versionsBody struct {
	Versions []inventory.Version
	Pages    pages
	// Folded is how many pre-releases are not shown, All whether they were asked for.
	Folded   int
	All      bool
	Building bool
	AllURL   string
}

func (h *Handler) versions(w http.ResponseWriter, r *request, a *artifact) error {
	b := versionsBody{All: r.URL.Query().Has("all"), Building: h.o.Inventory.Building(), AllURL: "?all"}
	if err := h.list(r.Context(), func() {
		all := h.o.Inventory.Versions(a.Name)
		if !b.All {
			released := slices.DeleteFunc(slices.Clone(all), func(v inventory.Version) bool { return v.Tag != a.Tag && (!v.Chart || isPrerelease(v.Tag)) })
			if len(released) > 0 {
				b.Folded = len(all) - len(released)
				all = released
			}
		}
		var from, to int
		from, to, b.Pages = r.part(len(all), versionsPerPage)
		b.Versions = slices.Clone(all[from:to])
	}); err != nil {
		return err
	}
	return h.page(w, r, a, "versions", b, "")
}

func isPrerelease(tag string) bool {
	v, err := semver.NewVersion(versionOf(tag))
	return err != nil || v.Prerelease() != ""
}

// signaturesBody are what refers to a manifest.
type signaturesBody struct {
	Referrers []referrer
	// Tagged are those that older programs name by a tag.
	Tagged []referrer
	More   bool
}

type referrer struct {
	Kind, Type, URL, Created string
	Size                     int64
}

// referrerKinds are what people call the types of artifacts, by what those begin with.
var referrerKinds = [][2]string{
	{"application/vnd.dev.sigstore.bundle", "Signature or attestation (Sigstore bundle)"},
	{"application/vnd.dev.cosign.artifact.sig", "Signature (cosign)"},
	{"application/vnd.dev.cosign.artifact.sbom", "Bill of materials (cosign)"},
	{"application/vnd.cncf.notary.signature", "Signature (Notation)"},
	{"application/spdx", "Bill of materials (SPDX)"}, {"text/spdx", "Bill of materials (SPDX)"},
	{"application/vnd.cyclonedx", "Bill of materials (CycloneDX)"},
	{"application/vnd.in-toto", "Attestation (in-toto)"},
	{"application/sarif", "Scan report (SARIF)"},
}

func kindOf(artifactType string) string {
	for _, k := range referrerKinds {
		if strings.HasPrefix(artifactType, k[0]) {
			return k[1]
		}
	}
	return "Other"
}

func (h *Handler) signatures(w http.ResponseWriter, r *request, a *artifact) error {
	var b signaturesBody
	size := 0
	for last := ""; ; {
		found, next, err := a.repository.Referrers(r.Context(), a.Manifest.Digest, "", last)
		if err != nil {
			return err
		}
		for _, f := range found {
			size += len(f.ArtifactType) + len(f.Annotations)
			created := ""
			var annotations map[string]string
			if json.Unmarshal(f.Annotations, &annotations) == nil {
				created = annotations["org.opencontainers.image.created"]
			}
			b.Referrers = append(b.Referrers, referrer{
				Kind: kindOf(f.ArtifactType), Type: clip(f.ArtifactType, maxTypeBytes), URL: h.versionURL(a.Name, f.Digest.String(), ""), Created: clip(created, 40), Size: f.Size,
			})
		}
		if b.More = next != "" && (len(b.Referrers) >= maxReferrers || size >= maxReferrersBytes); next == "" || b.More {
			break
		}
		last = next
	}
	base := a.Manifest.Digest.Algorithm().String() + "-" + a.Manifest.Digest.Encoded()
	for suffix, kind := range map[string]string{".sig": "Signature (cosign)", ".att": "Attestation (cosign)", ".sbom": "Bill of materials (cosign)"} {
		m, err := a.repository.StatManifest(r.Context(), base+suffix)
		if errors.Is(err, repository.ErrManifestUnknown) || errors.Is(err, repository.ErrReferenceInvalid) {
			continue
		}
		if err != nil {
			return err
		}
		b.Tagged = append(b.Tagged, referrer{Kind: kind, Type: m.MediaType, URL: h.versionURL(a.Name, base+suffix, ""), Size: m.Size})
	}
	slices.SortFunc(b.Tagged, func(x, y referrer) int { return strings.Compare(x.Kind, y.Kind) })
	return h.page(w, r, a, "signatures", b, "")
}

// manifestBody is a manifest as it is stored.
type manifestBody struct {
	textBody
	SHA512 string
}

func (h *Handler) manifest(w http.ResponseWriter, r *request, a *artifact) error {
	var b manifestBody
	if a.Raw != nil {
		b.textBody = shown(chart.Text{Name: "manifest.json", Size: a.Manifest.Size, Content: indent(a.Raw)})
		sum := sha512.Sum512(a.Raw)
		b.SHA512 = hex.EncodeToString(sum[:])
	}
	b.Download = h.versionURL(a.Name, a.Reference, manifestFile)
	return h.page(w, r, a, "manifest", b, "")
}

// indent puts each value of a JSON document on a line of its own. What would become very much larger by that stays as it is:
// in deep nesting most of it would be spaces.
func indent(raw []byte) []byte {
	size, depth, quoted := len(raw), 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
			size += 2 * depth
		case c == ']' || c == '}':
			depth--
			size += 2 * depth
		case c == ',':
			size += 2 * depth
		}
	}
	var indented bytes.Buffer
	if size > 4*maxManifestBytes || json.Indent(&indented, raw, "", "  ") != nil {
		return raw
	}
	return indented.Bytes()
}

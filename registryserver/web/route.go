package web

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
)

// Paths that belong to no registry. No organization is called "static" or "-".
const (
	assetsPath  = "/static/"
	signInPath  = "/-/sign-in"
	signOutPath = "/-/sign-out"
)

// kind is a kind of page.
type kind struct {
	// pattern names it in logs and metrics.
	pattern string
	does    audit.Action
	methods []string
	// private pages want a viewer who has signed in, unless the registry is public.
	private bool
	// load is what it costs.
	load  Load
	serve func(*Handler, http.ResponseWriter, *request) error
}

// kinds are all of them.
type kinds struct {
	asset, home, signIn, signOut, registry, publish, access, settings, activity, chart, version, repository, unknown *kind
	// tabs are the pages of a version, by what stands behind "/-/" in their paths.
	tabs map[string]*kind
}

func newKinds() kinds {
	type server = func(*Handler, http.ResponseWriter, *request) error
	reads := []string{http.MethodGet, http.MethodHead}
	forms := append([]string{http.MethodPost}, reads...)
	ofRegistry := func(below string, methods []string, serve server) *kind {
		return &kind{"/{registry}" + below, audit.List, methods, true, Listing, serve}
	}
	k := kinds{
		asset:    &kind{"/static/{file}", audit.Other, reads, false, Light, (*Handler).asset},
		home:     &kind{"/", audit.List, reads, false, Listing, (*Handler).home},
		signIn:   &kind{signInPath, audit.Login, forms, false, Light, (*Handler).signIn},
		signOut:  &kind{signOutPath, audit.Login, []string{http.MethodPost}, false, Light, (*Handler).signOut},
		registry: ofRegistry("", reads, (*Handler).releases),
		publish:  ofRegistry("/publish", forms, (*Handler).publish),
		access:   ofRegistry("/access", forms, (*Handler).access),
		settings: ofRegistry("/settings", reads, (*Handler).settings),
		activity: ofRegistry("/activity", forms, (*Handler).activity),
		chart:    ofRegistry("/charts/{chart}/", reads, (*Handler).chart),
		version:  ofRegistry("/charts/{chart}/{version}", reads, withArtifact((*Handler).installation)),
		// Not private: it says the same to everybody, and helm shows a status but would take a page to sign in for an index.
		repository: &kind{"/{registry}/index.yaml", audit.Other, forms, false, Light, (*Handler).repositoryElsewhere},
		unknown:    ofRegistry("/…", forms, func(*Handler, http.ResponseWriter, *request) error { return errNotFound }),
		tabs:       map[string]*kind{},
	}
	for tab, serve := range map[string]artifactServer{
		"readme": (*Handler).readme, "values": (*Handler).values, "schema": (*Handler).schema, "templates": (*Handler).templates,
		"dependencies": (*Handler).dependencies, "versions": (*Handler).versions, "signatures": (*Handler).signatures, "manifest": (*Handler).manifest,
	} {
		k.tabs[tab] = ofRegistry("/charts/{chart}/{version}/-/"+tab, reads, withArtifact(serve))
		switch tab {
		case "readme", "values", "schema", "templates", "manifest", "dependencies", "signatures":
			k.tabs[tab].load = Text
		}
	}
	k.settings.load, k.activity.load = Text, Text
	for file, serve := range map[string]artifactServer{
		archiveFile: (*Handler).downloadArchive, provenanceFile: (*Handler).downloadProvenance, manifestFile: (*Handler).downloadManifest, valuesFile: (*Handler).downloadValues,
	} {
		k.tabs[file] = ofRegistry("/charts/{chart}/{version}/-/"+file, reads, withArtifact(serve))
		k.tabs[file].does, k.tabs[file].load = audit.Pull, Light
	}
	return k
}

// route is what a path names.
type route struct {
	kind *kind
	// chart is the path below the registry, version the tag or digest as it is written, and file that of an asset.
	chart, version, file string
}

// parse tells what an address names. It knows the shape only. The name of a chart may have slashes in it, and elements that
// look like versions: so a version's pages are behind "/-/", which is in no name, and a path that ends in a slash is that
// of a chart.
func (h *Handler) parse(u *url.URL) route {
	path := u.Path
	// An encoded slash would be one that other programs on the way did not see.
	if strings.Contains(strings.ToLower(u.RawPath), "%2f") {
		return route{kind: h.kinds.unknown}
	}
	switch path {
	case "/":
		return route{kind: h.kinds.home}
	case signInPath:
		return route{kind: h.kinds.signIn}
	case signOutPath:
		return route{kind: h.kinds.signOut}
	}
	if file, ok := strings.CutPrefix(path, assetsPath); ok {
		return route{kind: h.kinds.asset, file: file}
	}
	below := strings.TrimPrefix(path, h.registryPath())
	switch below {
	case "", "/":
		return route{kind: h.kinds.registry}
	case "/publish":
		return route{kind: h.kinds.publish}
	case "/access":
		return route{kind: h.kinds.access}
	case "/settings":
		return route{kind: h.kinds.settings}
	case "/activity":
		return route{kind: h.kinds.activity}
	case "/index.yaml", "/api/charts":
		return route{kind: h.kinds.repository}
	}
	charts, ok := strings.CutPrefix(below, "/charts/")
	if !ok {
		return route{kind: h.kinds.unknown}
	}
	if chart, ok := strings.CutSuffix(charts, "/"); ok {
		return route{kind: h.kinds.chart, chart: chart}
	}
	named, tab, tabbed := strings.Cut(charts, "/-/")
	slash := strings.LastIndexByte(named, '/')
	if slash < 0 {
		if tabbed {
			return route{kind: h.kinds.unknown}
		}
		return route{kind: h.kinds.chart, chart: named}
	}
	r := route{kind: h.kinds.version, chart: named[:slash], version: named[slash+1:]}
	if tabbed {
		if r.kind, ok = h.kinds.tabs[tab]; !ok {
			return route{kind: h.kinds.unknown}
		}
	}
	return r
}

func (h *Handler) chartURL(chart string) string { return h.registryPath() + "/charts/" + chart + "/" }

// versionURL is the address of a tab of a version; the empty one is the first.
func (h *Handler) versionURL(chart, reference, tab string) string {
	u := h.registryPath() + "/charts/" + chart + "/" + strings.ReplaceAll(reference, "+", "_")
	if tab != "" {
		u += "/-/" + tab
	}
	return u
}

// signInURL is where one signs in to see the page at next.
func signInURL(next string) string {
	if next == "/" {
		return signInPath
	}
	return signInPath + "?" + url.Values{"next": {next}}.Encode()
}

// ownPage is next where that is one of the pages here, and the registry's own otherwise: nobody is led to another site.
func (h *Handler) ownPage(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || len(next) > 2048 || strings.ContainsAny(next, "\\\r\n\t") {
		return h.registryPath()
	}
	own := h.registryPath()
	if u.Path != own && !strings.HasPrefix(u.Path, own+"/") || strings.Contains(u.Path, "//") {
		return own
	}
	return (&url.URL{Path: u.Path, RawQuery: u.RawQuery}).String()
}

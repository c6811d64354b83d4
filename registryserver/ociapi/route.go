package ociapi

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/face"
)

type action struct {
	needs face.Need
	does  audit.Action
	serve func(*Handler, http.ResponseWriter, *request) error
}

// route is one shape of address.
type route struct {
	// pattern names the route in logs and metrics.
	pattern string
	// tail are the elements behind the repository's name; "*" stands for any one.
	tail    []string
	methods map[string]action
}

var base = &route{pattern: "/v2/", methods: map[string]action{
	http.MethodGet:  {face.Login, audit.Login, getBase},
	http.MethodHead: {face.Login, audit.Login, getBase},
}}

const catalogPath = "/v2/_catalog"

var catalog = &route{pattern: catalogPath, methods: map[string]action{
	http.MethodGet:  {face.Login, audit.List, getCatalog},
	http.MethodHead: {face.Login, audit.List, getCatalog},
}}

// routes are the endpoints of the OCI Distribution Specification 1.1 ("Endpoints") below a repository's name. The first
// that matches counts.
var routes = []*route{
	{"/v2/{name}/tags/list", []string{"tags", "list"}, map[string]action{
		http.MethodGet:  {face.Read, audit.List, getTags},
		http.MethodHead: {face.Read, audit.List, getTags},
	}},
	{"/v2/{name}/referrers/{digest}", []string{"referrers", "*"}, map[string]action{
		http.MethodGet:  {face.Read, audit.List, getReferrers},
		http.MethodHead: {face.Read, audit.List, getReferrers},
	}},
	{"/v2/{name}/blobs/uploads/{upload}", []string{"blobs", "uploads", "*"}, map[string]action{
		http.MethodGet:    {face.Push, audit.Upload, getUpload},
		http.MethodPatch:  {face.Push, audit.Upload, patchUpload},
		http.MethodPut:    {face.Push, audit.Upload, putUpload},
		http.MethodDelete: {face.Push, audit.Delete, deleteUpload},
	}},
	{"/v2/{name}/blobs/uploads/", []string{"blobs", "uploads"}, map[string]action{
		http.MethodPost: {face.Push, audit.Upload, postUpload},
	}},
	{"/v2/{name}/blobs/{digest}", []string{"blobs", "*"}, map[string]action{
		http.MethodGet:    {face.Read, audit.Pull, getBlob},
		http.MethodHead:   {face.Read, audit.Pull, headBlob},
		http.MethodDelete: {face.Delete, audit.Delete, deleteBlob},
	}},
	{"/v2/{name}/manifests/{reference}", []string{"manifests", "*"}, map[string]action{
		http.MethodGet:    {face.Read, audit.Pull, getManifest},
		http.MethodHead:   {face.Read, audit.Pull, headManifest},
		http.MethodPut:    {face.Push, audit.Push, putManifest},
		http.MethodDelete: {face.Delete, audit.Delete, deleteManifest},
	}},
}

// target is what a path names.
type target struct {
	route                         *route
	organization, registry, chart string
	argument                      string
}

func (t target) pattern() string {
	if t.route == nil {
		return "other"
	}
	return t.route.pattern
}

// observe notes what a request asks for. The address of an upload is signed, and so no reference for others to see.
func (t target) observe(method string, seen *audit.Observation) {
	seen.Route, seen.Action, seen.Chart = t.pattern(), audit.Other, t.chart
	if t.route == nil {
		return
	}
	if a, ok := t.route.methods[method]; ok {
		seen.Action = a.does
	}
	if !slices.Contains(t.route.tail, "uploads") {
		seen.Reference = t.argument
	}
}

// name is the whole repository name.
func (t target) name() string {
	return strings.TrimRight(t.organization+"/"+t.registry+"/"+t.chart, "/")
}

var (
	// errNotAPI: the path is outside /v2/, where nothing is and nothing is protected.
	errNotAPI = refuse(http.StatusNotFound, "UNSUPPORTED", "there is nothing here; the registry's API is below /v2/")
	errRoute  = refuse(http.StatusNotFound, "UNSUPPORTED", "the registry's API has no such address; repository names are /v2/organization/registry/chart")
	errPath   = refuse(http.StatusBadRequest, "NAME_INVALID", "the path has an empty element, \".\", \"..\" or a character that no repository name, tag or digest has")
)

// parsePath tells what an address names. It knows the shape only: whether names, digests and tags are well-formed is
// the repository's to say. Even with an error other than errNotAPI, the request is to be authenticated first.
func parsePath(u *url.URL) (target, error) {
	if u.Path == "/v2" {
		return target{route: base}, nil
	}
	rest, ok := strings.CutPrefix(u.Path, "/v2/")
	if !ok {
		return target{}, errNotAPI
	}
	switch rest {
	case "":
		return target{route: base}, nil
	case "_catalog":
		return target{route: catalog}, nil
	}
	// An encoded slash would decode into one that other programs on the way did not see. Without one, and without
	// anything else that need not have been encoded, there is no raw path.
	if u.RawPath != "" && strings.Contains(strings.ToLower(u.RawPath), "%2f") || face.HasIllegal(rest) {
		return target{}, errPath
	}
	segments := strings.Split(rest, "/")
	if last := len(segments) - 1; last >= 2 && segments[last] == "" && segments[last-1] == "uploads" && segments[last-2] == "blobs" {
		segments = segments[:last]
	}
	for _, s := range segments {
		if s == "" || s == "." || s == ".." {
			return target{}, errPath
		}
	}
	return match(segments)
}

func match(segments []string) (target, error) {
	for _, r := range routes {
		end := len(segments) - len(r.tail)
		if end < 1 || !slices.EqualFunc(r.tail, segments[end:], func(want, is string) bool { return want == "*" || want == is }) {
			continue
		}
		t := target{route: r, organization: segments[0]}
		if end > 1 {
			t.registry = segments[1]
		}
		if end > 2 {
			t.chart = strings.Join(segments[2:end], "/")
		}
		if r.tail[len(r.tail)-1] == "*" {
			t.argument = segments[len(segments)-1]
		}
		return t, nil
	}
	return target{}, errRoute
}

package ociapi

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/quota"
)

// asked counts what a bucket is asked for: what nobody looked up, no answer and no clock can tell.
type asked struct {
	bucket.Bucket
	n *atomic.Int64
}

func (a asked) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	a.n.Add(1)
	return a.Bucket.Get(ctx, key, r)
}

func (a asked) Head(ctx context.Context, key string) (bucket.Info, error) {
	a.n.Add(1)
	return a.Bucket.Head(ctx, key)
}

func (a asked) Put(ctx context.Context, key string, body io.Reader, size int64, c bucket.Condition) (bucket.Info, error) {
	a.n.Add(1)
	return a.Bucket.Put(ctx, key, body, size, c)
}

func (a asked) Delete(ctx context.Context, key string, c bucket.Condition) error {
	a.n.Add(1)
	return a.Bucket.Delete(ctx, key, c)
}

func (a asked) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	a.n.Add(1)
	return a.Bucket.List(ctx, o)
}

func (a asked) Copy(ctx context.Context, from, to string) (bucket.Info, error) {
	a.n.Add(1)
	return a.Bucket.Copy(ctx, from, to)
}

// twins are two private registries that hold different charts, beside one that is the same in both, "other". Both have a
// quota of the same size.
type twins struct {
	of [2]*registry
	// asked is how often each was asked for an object.
	asked [2]atomic.Int64
	// charts, digests and tags are what either has, and what neither has; uploads are those that its owner has begun.
	charts, digests, tags []string
	uploads               [2]string
}

func newTwins(t *testing.T) *twins {
	t.Helper()
	w := &twins{
		charts:  []string{testChart, "team/secret", "nothing", "other"},
		digests: []string{digestOf("nothing"), digestOf("{}"), digestOf("subject")},
		tags:    []string{"1.0.0", "3.0.0-secret"},
	}
	for i := range w.of {
		r := newLimited(t, quota.Limits{Bytes: 3000}, true, func(b bucket.Bucket) bucket.Bucket { return asked{b, &w.asked[i]} })
		w.of[i] = r
		r.pushNamed("other", "1.0.0", plain(""))
		secret, chart := strings.Repeat([]string{"layer", "another"}[i], 75), []string{"team/secret", testChart}[i]
		manifest := plain(fmt.Sprintf(`,"annotations":{"secret":%q}`, secret))
		r.pushNamed(chart, []string{"1.0.0", "3.0.0-secret"}[i], manifest)
		referrer := referring(digestOf("subject"), "example/"+fmt.Sprint(i))
		r.pushNamed(chart, digestOf(referrer), referrer)
		r.pushBlob(secret)
		if i == 1 {
			r.pushNamed("team/secret/deeper", "3.0.0-secret", plain(""))
		}
		w.uploads[i] = r.begin()
		w.digests = append(w.digests, digestOf(manifest), digestOf(referrer), digestOf(secret))
	}
	w.digests = append(w.digests, digestOf(plain("")))
	return w
}

// requests are all that a stranger could think of, of the charts that are given.
func (w *twins) requests(charts []string) []call {
	var paths []string
	var calls []call
	for _, chart := range charts {
		at := "/v2/acme/charts/" + chart
		paths = append(paths, at, at+"/tags/list", at+"/tags/list?n=1", at+"/tags/list?n=0", at+"/tags/list?last=0", at+"/blobs/uploads/", at+"/blobs/uploads/x.1.y")
		for _, d := range w.digests {
			paths = append(paths, at+"/blobs/"+d, at+"/manifests/"+d, at+"/referrers/"+d, at+"/referrers/"+d+"?artifactType=example/0",
				at+"/blobs/uploads/?digest="+d, at+"/blobs/uploads/?mount="+d)
			for _, from := range w.charts {
				calls = append(calls, call{method: "POST", path: at + "/blobs/uploads/?mount=" + d + "&from=acme/charts/" + from})
			}
		}
		for _, tag := range w.tags {
			paths = append(paths, at+"/manifests/"+tag)
		}
	}
	paths = append(paths, "/", "/v2", "/v2/", "/v2/acme/charts/tags/list", "/v2/_catalog", "/v2/_catalog?n=1", "/v2/_catalog?n=1000000000", "/v2/_catalog?n=-1",
		"/v2/_catalog?n=1&last=acme/charts/team", "/v2/_catalog?last=acme", "/metrics", "/index.yaml", "/v2/acme/other/web/tags/list")
	for _, path := range paths {
		for _, method := range []string{"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"} {
			c := call{method: method, path: path}
			switch method {
			case "GET":
				c.header = map[string]string{"Range": "bytes=0-3"}
			case "PUT":
				// A manifest that names what may be in another chart.
				c.body, c.header = manifestOf("layer"), map[string]string{"Content-Type": ociManifest}
			case "POST":
				c.body = "{}"
			}
			calls = append(calls, c)
		}
	}
	return calls
}

var uploadAddress = regexp.MustCompile(`/blobs/uploads/[A-Za-z0-9_-]{22}\.[0-9]+\.[A-Za-z0-9_-]{43}`)

// answer is all that a client gets, but for the random part of an upload's address.
func (r *registry) answer(c call) string {
	r.t.Helper()
	a := r.do(c)
	text := fmt.Sprintln(a.StatusCode)
	for _, name := range slices.Sorted(maps.Keys(a.Header)) {
		text += fmt.Sprintln(name, a.Header[name])
	}
	return uploadAddress.ReplaceAllString(text+read(r.t, a), "/blobs/uploads/SESSION")
}

func (w *twins) compare(t *testing.T, token string, c call) {
	t.Helper()
	c.token = token
	first, second := w.of[0].answer(c), w.of[1].answer(c)
	if first != second {
		t.Errorf("%s %s with the token %q tells what is stored:\n%s\nand\n%s", c.method, c.path, token, first, second)
	}
}

// Who may not read anything gets the same answers of a private registry whatever it holds, byte for byte, and nothing is
// even looked up for them.
func TestWhoMayNotReadLearnsNothing(t *testing.T) {
	w := newTwins(t)
	calls := w.requests(w.charts)
	for name, grants := range withNone() {
		if strings.Contains(grants, "r") || strings.HasSuffix(name, "another chart") {
			continue
		}
		for _, c := range calls {
			if c.method == http.MethodDelete && grants == "d" {
				continue // What one may delete, one finds by deleting it.
			}
			before := w.asked[0].Load() + w.asked[1].Load()
			w.compare(t, name, c)
			if n := w.asked[0].Load() + w.asked[1].Load() - before; n != 0 && !strings.HasPrefix(c.path, catalogPath) {
				t.Errorf("%s %s with the token %q: %d objects were asked for", c.method, c.path, name, n)
			}
		}
		for _, upload := range w.uploads {
			for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
				w.compare(t, name, call{method: method, path: upload, body: "x"})
			}
		}
	}
}

func withNone() map[string]string {
	all := maps.Clone(credentials)
	all["none"] = nobody
	return all
}

// A token for one chart tells nothing of the others: of theirs nothing is answered, and of its own the same whatever
// theirs hold.
func TestTokenOfOneChartLearnsNothingOfOthers(t *testing.T) {
	w := newTwins(t)
	for _, token := range []string{"all of another chart", "OIDC of another chart"} {
		// More than there is room for beside the others' charts.
		w.compare(t, token, call{method: "POST", path: "/v2/acme/charts/other/blobs/uploads/?digest=" + digestOf("x"), body: strings.Repeat("x", 1500)})
		for _, c := range w.requests(w.charts) {
			w.compare(t, token, c)
		}
		for _, upload := range w.uploads {
			w.compare(t, token, call{method: "GET", path: strings.Replace(upload, "/web/", "/other/", 1)})
		}
	}
	for i, r := range w.of {
		if tags := read(t, r.want(http.StatusOK, call{method: "GET", path: "/v2/acme/charts/" + []string{"team/secret", testChart}[i] + "/tags/list"})); !strings.Contains(tags, ".0.0") {
			t.Errorf("the other chart is not as it was: %s", tags)
		}
	}
}

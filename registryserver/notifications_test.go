package registryserver_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/test/s3server"
)

// hook is a receiver that keeps what it gets, as "type subject actor message".
type hook struct {
	*httptest.Server
	mu    sync.Mutex
	lines []string
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e struct {
			Type, Subject string
			Data          struct{ Actor, Message string }
		}
		body, _ := io.ReadAll(r.Body)
		if json.Unmarshal(body, &e) != nil {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.lines = append(h.lines, fmt.Sprintf("%s %s %s %s", strings.TrimPrefix(e.Type, "dev.chartroom."), e.Subject, e.Data.Actor, e.Data.Message))
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) got() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

func (h *hook) has(words string) bool {
	return slices.ContainsFunc(h.got(), func(line string) bool { return strings.Contains(line, words) })
}

func notified(h *hook, events ...receivers.Event) func(*registryserver.Config) {
	return func(c *registryserver.Config) {
		c.AllowEgressCIDRs = []string{"127.0.0.0/8"}
		c.Notifications = []receivers.Receiver{{Name: "hook", URL: h.URL, Format: receivers.CloudEvents, Events: events}}
	}
}

func TestReceiversAreTold(t *testing.T) {
	h := newHook(t)
	r := start(t, notified(h))
	web := charttest.New("web", "1.0.0+a", 100)
	for _, reference := range []string{"", "1.0.0_a", "1.0.0_a"} {
		if status, body := r.putChart(reference, web); status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
	}
	eventually(t, "the push is told", func() bool { return len(h.got()) == 1 })
	if answer := r.request("DELETE", r.public+repositoryPath+"/manifests/1.0.0_a", nil, nil); answer.StatusCode != http.StatusAccepted {
		t.Fatal(answer.Status)
	}
	eventually(t, "the delete is told", func() bool { return len(h.got()) == 2 })
	id := strings.Split(r.token, "_")[1]
	if got := h.got(); got[0] != "package.created web:1.0.0_a crt_"+id+" " || got[1] != "package.deleted web:1.0.0_a crt_"+id+" " {
		t.Errorf("told %q", got)
	}
	metrics := text(t, r.request("GET", r.metrics+"/metrics", nil, nil))
	for _, line := range []string{
		`chartroom_events_deliveries_total{outcome="delivered",receiver="hook"} 2`, `chartroom_events_delivery_seconds_count{receiver="hook"} 2`,
		`chartroom_events_dead{receiver="hook"} 0`, `chartroom_events_pending{receiver="hook"} `,
	} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
}

// What a receiver is told in Buildkite's format, it can ask for.
func TestAddressesInEventsLead(t *testing.T) {
	told := make(chan string, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		told <- string(body)
	}))
	t.Cleanup(receiver.Close)
	r := start(t, func(c *registryserver.Config) {
		c.AllowEgressCIDRs = []string{"127.0.0.0/8"}
		c.Notifications = []receivers.Receiver{{Name: "hook", URL: receiver.URL, Format: receivers.Buildkite}}
	})
	if a := r.publish("/acme/charts/helm/api/charts?to=team/web", charttest.New("web", "1.0.0+a", 0).Content, nil); a.StatusCode != http.StatusCreated {
		t.Fatal(a.Status)
	}
	type address struct {
		ID, Slug, URL string
		WebURL        string `json:"web_url"`
	}
	var event struct {
		Package struct {
			address
			Organization, Registry address
		}
	}
	if err := json.Unmarshal([]byte(<-told), &event); err != nil {
		t.Fatal(err)
	}
	p := event.Package
	here := func(address string) string {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		return r.public + u.Path
	}
	var described struct{ ID string }
	eventually(t, "the package is described", func() bool {
		a := r.request("GET", here(p.URL), nil, nil)
		return a.StatusCode == http.StatusOK && json.Unmarshal([]byte(text(t, a)), &described) == nil
	})
	if described.ID != p.ID || p.Registry.ID != "charts" {
		t.Errorf("it is %q here, and the event says %+v", described.ID, p)
	}
	for _, page := range []string{p.WebURL, p.Organization.WebURL, p.Registry.WebURL} {
		if a := r.request("GET", here(page), nil, map[string]string{"Accept": "text/html"}); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", page, a.Status)
		}
	}
}

func TestReceiversAreToldOfTheQuota(t *testing.T) {
	h := newHook(t)
	r := start(t, func(c *registryserver.Config) {
		notified(h, receivers.QuotaReached)(c)
		c.Quota.Versions = 1
	})
	r.untilCounted(0)
	r.pushVersion("1.0.0")
	for range 2 {
		if status, _ := r.putChart("1.0.1", charttest.New("web", "1.0.1", 0)); status != http.StatusForbidden {
			t.Fatalf("status %d", status)
		}
	}
	eventually(t, "it is told", func() bool { return h.has("registry.quota") })
	if got := h.got(); len(got) != 1 || !strings.Contains(got[0], "a push was refused: this is over the registry's quota of 1 version") {
		t.Errorf("told %q", got)
	}
}

// The storage is S3, in which all else is told too, and then it is gone.
func TestReceiversAreToldOfTheStorage(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	s3 := s3server.Start(t)
	inS3 := storeInS3(t, s3, "charts")
	r := start(t, func(c *registryserver.Config) {
		inS3(c)
		notified(h, receivers.PackageCreated, receivers.PackageDeleted, receivers.StorageFailed)(c)
	})
	for range 2 {
		if status, body := r.putChart("1.0.0", charttest.New("web", "1.0.0", 0)); status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
		if answer := r.request("DELETE", r.public+repositoryPath+"/manifests/1.0.0", nil, nil); answer.StatusCode != http.StatusAccepted {
			t.Fatal(answer.Status)
		}
	}
	eventually(t, "four are told", func() bool { return len(h.got()) == 4 })
	for i, line := range h.got() {
		if want := []string{"package.created web:1.0.0 ", "package.deleted web:1.0.0 "}[i%2]; !strings.HasPrefix(line, want) {
			t.Errorf("told %q, want %q", line, want)
		}
	}
	s3.Kill()
	for range 2 {
		if answer := r.request("GET", r.public+repositoryPath+"/manifests/1.0.0", nil, nil); answer.StatusCode != http.StatusServiceUnavailable {
			t.Fatal(answer.Status)
		}
	}
	eventually(t, "it is told", func() bool { return h.has("registry.storage_failed") })
	if got := h.got(); len(got) != 5 || !strings.Contains(got[4], "does not answer") {
		t.Errorf("told %q", got)
	}
}

func TestNotificationsAreValidated(t *testing.T) {
	c := registryserver.Config{Notifications: []receivers.Receiver{{Name: "a", URL: "https://example.com", Format: "flux"}, {Name: "b", Format: "flux"}}}
	if err := c.WithDefaults().Validate(); err == nil || err.Error() != "notifications[1].url: is not an address such as https://example.com/hook" {
		t.Errorf("error is %v", err)
	}
	for list, words := range map[string]string{
		"[{name: a, url: 'https://example.com', format: flux}]":      "",
		`[{"name":"a","url":"https://example.com","format":"flux"}]`: "",
		"": "",
		"[{name: a, url: 'https://example.com', format: flux, secret: x}]": "the field secret is unknown",
		"[{name: a, url: 'https://example.com'}]":                          "notifications[0].format: ",
		"{name: a}":                  "reading the list of receivers",
		strings.Repeat("#", 300<<10): "more than 262144 bytes",
	} {
		_, err := registryserver.ParseNotifications([]byte(list))
		if words == "" && err != nil || words != "" && (err == nil || !strings.Contains(err.Error(), words)) {
			t.Errorf("%.80s: error is %v, want %q", list, err, words)
		}
	}
}

func FuzzParseNotifications(f *testing.F) {
	for _, seed := range []string{
		"", "[]", "[{name: a, url: 'https://example.com', format: flux, auth: {hmac: {secretFile: f}}, filter: {charts: ['*']}}]",
		"[{name: a, url: 'http://[::1]:80/?', format: buildkite, headerPrefix: A, tls: {insecureSkipVerify: true}}]", "[{name: a, auth: {hmac: null}}]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all, err := registryserver.ParseNotifications([]byte(s))
		if err != nil {
			return
		}
		for _, r := range all {
			if strings.ContainsAny(r.Name+r.Prefix(), "\r\n /.:") || strings.ContainsAny(r.URL, "\r\n\x00 ") {
				t.Errorf("%q has the receiver %+v", s, r)
			}
			r.Wants(receivers.PackageCreated, "team/web", "1.0.0-rc.1")
			if again, err := json.Marshal(all); err != nil {
				t.Error(err)
			} else if _, err := registryserver.ParseNotifications(again); err != nil {
				t.Errorf("%q is written as %s, which is not taken: %v", s, again, err)
			}
		}
	})
}

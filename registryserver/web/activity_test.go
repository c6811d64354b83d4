package web_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/web"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// canary would run if it were taken for markup.
const canary = `"'></title></td><img src=x onerror=alert(1)><script>alert(1)</script>{{.}}`

// fakeNotifier has states, and remembers what it is asked for.
type fakeNotifier struct {
	names   []string
	states  map[string]events.State
	letters map[string][]events.DeadLetter
	asked   []string
	err     error
}

func (f *fakeNotifier) Receivers() []string { return f.names }

func (f *fakeNotifier) State(_ context.Context, receiver string) (events.State, error) {
	return f.states[receiver], f.err
}

func (f *fakeNotifier) DeadLetters(_ context.Context, receiver string, limit int) ([]events.DeadLetter, error) {
	all := f.letters[receiver]
	return append([]events.DeadLetter(nil), all[:min(len(all), limit)]...), f.err
}

func (f *fakeNotifier) Ping(_ context.Context, receiver string) (string, error) {
	return "id", f.ask("ping " + receiver)
}

func (f *fakeNotifier) Redeliver(_ context.Context, receiver, id string) error {
	return f.ask("redeliver " + id + " to " + receiver)
}

func (f *fakeNotifier) ask(what string) error {
	if strings.Contains(what, "nobody") {
		return fmt.Errorf("asking: %w", events.ErrUnknown)
	}
	f.asked = append(f.asked, what)
	return f.err
}

type fakeHistory struct {
	changes []events.Event
	err     error
}

func (f *fakeHistory) Recent(context.Context) ([]events.Event, error) { return f.changes, f.err }

// watched is a registry with receivers.
func watched(t *testing.T) (*site, *fakeNotifier, *fakeHistory) {
	t.Helper()
	at := time.Now().Add(-time.Hour)
	event := func(id string, what receivers.Event, chart, version string) events.Event {
		return events.Event{ID: id, Type: what, Time: at, Chart: chart, Version: version, Tag: strings.ReplaceAll(version, "+", "_"), Digest: "sha256:1234567890abcdef", By: "crt_pusher12"}
	}
	n := &fakeNotifier{
		names: []string{"flux", "chat", "old", "off", "new"},
		states: map[string]events.State{
			"flux": {
				Name: "flux", Receiver: receivers.Receiver{URL: "https://flux.example/hook/hunter2?t=hunter2", Format: receivers.Flux}, Pending: 1,
				Deliveries: []events.Delivery{{Event: event("e1", receivers.PackageCreated, "web", "1.0.0+b1"), Attempt: 1, At: at, Took: 1234 * time.Millisecond, Outcome: events.Delivered,
					Request:  events.Request{URL: "https://flux.example/hook/hunter2?t=hunter2", Header: map[string]string{"X-Signature": "…", "X-Chartroom-Event": "package.created"}, Body: `{"sent": true}` + canary},
					Response: events.Response{Status: 204, Header: map[string]string{"Server": "fluxd"}, Body: "answered " + canary}}},
			},
			"chat": {
				Name: "chat", Receiver: receivers.Receiver{URL: "https://chat.example/", Format: receivers.CloudEvents}, Pending: 1234, Dead: 9, Problem: "it said " + canary, FailingSince: at, Next: time.Now().Add(time.Hour),
				Deliveries: []events.Delivery{
					{Event: event("e2", receivers.TagMoved, canary, canary), Attempt: 7, At: at, Took: 42 * time.Millisecond, Outcome: events.Failed, Problem: "it said " + canary, Response: events.Response{Status: 503}},
					{Event: event("e3", receivers.PackageDeleted, "web", "0.9.0"), Attempt: 2, At: at, Outcome: events.Dead, Problem: "too late"},
				},
			},
			"old": {Name: "old", Gone: true, Problem: "it answered 410"},
			"off": {Name: "off", Disabled: true},
			"new": {Name: "new"},
		},
		letters: map[string][]events.DeadLetter{},
	}
	for i := range 9 {
		n.letters["chat"] = append(n.letters["chat"], events.DeadLetter{Event: event(fmt.Sprintf("e%d", i+3), receivers.PackageCopied, "team/db", fmt.Sprintf("2.0.%d", i)), At: at, Problem: canary})
	}
	history := &fakeHistory{changes: []events.Event{
		event("c1", receivers.PackageDeleted, "gone", "0.1.0"), event("c2", receivers.PackageCreated, "web", "1.0.0+b1"), {ID: "c3", Type: receivers.PackageCopied, Chart: canary, Version: canary, Tag: canary, CopiedFrom: canary, By: canary},
	}}
	for i := range 20 {
		history.changes = append(history.changes, event(fmt.Sprintf("d%d", i), receivers.PackageCreated, "many", fmt.Sprintf("3.0.%d", i)))
	}
	return newSite(t, wire.Private, func(o *web.Options) { o.History, o.Notifier = history, n }), n, history
}

// writer signs in who may push everything.
func (s *site) writer() *browser {
	s.Helper()
	token := s.token("*", wire.ReadPackages, wire.WritePackages)
	s.reload()
	b := s.browser()
	b.signIn(token)
	return b
}

func TestActivity(t *testing.T) {
	s, n, history := watched(t)
	b := s.writer()
	page := b.page("/acme/charts/activity")
	wantAll(t, page,
		`aria-current="page">Activity`, `href="/acme/charts/charts/web/1.0.0_b1"`, "1.0.0&#43;b1", "Deleted", "<bdi>gone</bdi>", "crt_pusher12", "Show 13 more", "3.0.6<",
		"https://flux.example<", "In order", "1 event waiting", "Delivered", " 204", "1.2 s",
		"Backing off", "1\u202f234 events waiting", "9 dead letters", "Failing since", ">Failed<", " 503", "attempt 7", "42 ms", "Given up", "too late",
		"2.0.1<", "2.0.5<", "3 older dead letters",
		"Gone", "Disabled", "Nothing sent yet", "It has answered 410",
	)
	// e3 is the first of the dead letters, and is shown once: as a delivery.
	wantNone(t, page, "hunter2", "<script>alert", "<img", "2.0.0<", "2.0.6<", `href="/acme/charts/charts/gone`, "3.0.7<", "was asked for")
	if got := strings.Count(page, `name="event" value="e3"`); got != 1 {
		t.Errorf("one event has %d buttons", got)
	}
	wantNone(t, page, "fluxd", "{&#34;sent&#34;: true}")
	page = b.page("/acme/charts/activity?show=flux")
	wantAll(t, page, "X-Chartroom-Event: package.created\nX-Signature: …\n\n{&#34;sent&#34;: true}", "204\nServer: fluxd\n\nanswered ", `href="/acme/charts/activity?show=chat#receiver-chat"`)
	wantNone(t, page, "hunter2", "<script>alert", "<img", `show=flux"`)
	// Nothing came back.
	wantAll(t, b.page("/acme/charts/activity?show=chat"), "No answer.")
	wantNone(t, b.page("/acme/charts/activity?show="+url.QueryEscape(canary)), "fluxd", "<script>alert")
	page = b.page("/acme/charts/activity?all")
	wantAll(t, page, "3.0.19<")
	wantNone(t, page, "more</a>")
	// Who is told is not all that is known.
	history.changes, n.names = nil, nil
	wantAll(t, b.page("/acme/charts/activity"), "Nothing was pushed", "Nobody is told")
	history.err = errors.New("hunter2")
	if a := b.get("/acme/charts/activity"); a.StatusCode != http.StatusInternalServerError || strings.Contains(a.body, "hunter2") {
		t.Errorf("%s", a.Status)
	}
}

func TestAskingForDeliveries(t *testing.T) {
	s, n, _ := watched(t)
	b := s.writer()
	for _, step := range []struct {
		form     url.Values
		location string
		message  string
		names    string
	}{
		{url.Values{"receiver": {"flux"}}, "/acme/charts/activity?asked=ping&receiver=flux#receiver-flux", "A ping was asked for", "flux"},
		{url.Values{"receiver": {"chat"}, "event": {"e2"}}, "/acme/charts/activity?asked=redeliver&receiver=chat#receiver-chat", "The event was asked for once more", "chat/e2"},
	} {
		a := b.do(http.MethodPost, "/acme/charts/activity", step.form)
		if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != step.location {
			t.Errorf("%v: %s to %s", step.form, a.Status, a.Header.Get("Location"))
		}
		if last := s.seen[len(s.seen)-1]; last.Action != audit.Notify || last.Reference != step.names {
			t.Errorf("%v: it counts as %s, %s", step.form, last.Action, last.Reference)
		}
		path, _, _ := strings.Cut(step.location, "#")
		page := b.page(path)
		if strings.Count(page, step.message) != 1 {
			t.Errorf("%v: the page does not say what was done, once", step.form)
		}
	}
	if got := strings.Join(n.asked, ", "); got != "ping flux, redeliver e2 to chat" {
		t.Errorf("asked for: %s", got)
	}
	for _, form := range []url.Values{{"receiver": {"nobody"}}, {"receiver": {"nobody"}, "event": {"e2"}}, {"receiver": {"flux"}, "event": {"nobody"}}} {
		n.asked = nil
		if a := b.do(http.MethodPost, "/acme/charts/activity", form); a.StatusCode != http.StatusNotFound || len(n.asked) > 0 {
			t.Errorf("%v: %s", form, a.Status)
		}
	}
	if a := b.do(http.MethodPost, "/acme/charts/activity", url.Values{"receiver": {strings.Repeat("x", 5000)}}); a.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a large form: %s", a.Status)
	}
	// What an address says was asked for is shown of receivers alone, and in our words.
	wantNone(t, b.page("/acme/charts/activity?asked="+url.QueryEscape(canary)+"&receiver=flux"), "asked for")
	n.asked = nil
	b.origin = "https://evil.example"
	if a := b.do(http.MethodPost, "/acme/charts/activity", url.Values{"receiver": {"flux"}}); a.StatusCode != http.StatusForbidden || len(n.asked) > 0 {
		t.Errorf("asked for by another site: %s", a.Status)
	}
	b.origin = ""
	s.busy = true
	if a := b.do(http.MethodPost, "/acme/charts/activity", url.Values{"receiver": {"flux"}}); a.StatusCode != http.StatusTooManyRequests || len(n.asked) > 0 {
		t.Errorf("more than is served: %s", a.Status)
	}
}

func TestSettings(t *testing.T) {
	told := wire.Settings{
		Namespace: "team-a", Name: "charts", Generation: 7, Spec: "replicas: 2\ndescription: \"" + canary + "\"\n",
		Conditions: []wire.Condition{
			{Type: "Ready", Status: "True", Reason: "Ready", Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, {Type: "AccessConfirmed", Status: "False", Reason: "Waiting", Message: canary},
			{Type: "Stalled", Status: "True"}, {Type: "Reconciling", Status: "False"}, {Type: "InventoryFresh", Status: "Unknown"},
		},
	}
	s := newSite(t, wire.Private, func(o *web.Options) { o.Settings = func() wire.Settings { return told } })
	b := s.writer()
	page := b.page("/acme/charts/settings")
	wantAll(t, page, `aria-current="page">Settings`, "kubectl edit hreg charts -n team-a", "generation 7", `<span class="y-key">replicas</span>`, "2 January 2026, 03:04 UTC",
		`<span class="badge good">True</span>`, `<span class="badge warn">False</span>`, `<span class="badge warn">True</span>`, `<span class="badge good">False</span>`, `<span class="badge ">Unknown</span>`, "never")
	wantNone(t, page, "<script>alert", "<img")
	if strings.Contains(page, "<form method=\"post\" action=\"/acme") {
		t.Error("there is a form")
	}
	told.Spec = ""
	wantAll(t, b.page("/acme/charts/settings"), "too long")
	told = wire.Settings{Spec: "listen: 127.0.0.1:5000\n"}
	page = b.page("/acme/charts/settings")
	wantAll(t, page, "No operator", `<span class="y-key">listen</span>`)
	wantNone(t, page, "kubectl")
}

// What is about all charts is for those who may push all of them.
func TestWhoSeesSettingsAndActivity(t *testing.T) {
	for _, visibility := range []wire.Visibility{wire.Public, wire.Private} {
		n := &fakeNotifier{names: []string{"flux"}, states: map[string]events.State{"flux": {Name: "flux"}}}
		s := newSite(t, visibility, func(o *web.Options) { o.Notifier = n })
		tokens := map[string]string{
			"a reader": s.token("*", wire.ReadPackages), "of one chart": s.token("web", wire.ReadPackages, wire.WritePackages), "who deletes": s.token("*", wire.ReadPackages, wire.DeletePackages),
			"a writer": s.token("*", wire.ReadPackages, wire.WritePackages), "nobody": "",
		}
		s.reload()
		for who, token := range tokens {
			b := s.browser()
			want := http.StatusNotFound
			switch {
			case who == "a writer":
				want = http.StatusOK
			case token == "" && visibility == wire.Private:
				want = http.StatusSeeOther
			}
			if token != "" {
				b.signIn(token)
			}
			for _, page := range []string{"settings", "activity", "activity?all"} {
				if a := b.get("/acme/charts/" + page); a.StatusCode != want {
					t.Errorf("%s, %s in a %s registry: %s", who, page, visibility, a.Status)
				}
			}
			if a := b.get("/acme/charts"); a.StatusCode == http.StatusOK && strings.Contains(a.body, "/acme/charts/activity") != (want == http.StatusOK) {
				t.Errorf("%s: a tab that is not theirs, or none that is", who)
			}
			n.asked = nil
			a := b.do(http.MethodPost, "/acme/charts/activity", url.Values{"receiver": {"flux"}})
			if allowed := want == http.StatusOK; allowed != (len(n.asked) == 1) || !allowed && a.StatusCode != want {
				t.Errorf("%s: a ping: %s, %v", who, a.Status, n.asked)
			}
			if a := b.do(http.MethodPost, "/acme/charts/settings", url.Values{}); a.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("%s changes settings: %s", who, a.Status)
			}
		}
	}
}

// Who is told of trouble with the storage is told of that which pages meet with.
func TestFailuresAreTold(t *testing.T) {
	var told []error
	broken := errors.New("broken")
	s := newSite(t, wire.Private, func(o *web.Options) {
		o.History, o.Failed = &fakeHistory{err: broken}, func(err error) { told = append(told, err) }
	})
	b := s.writer()
	if a := b.get("/acme/charts/activity"); a.StatusCode != http.StatusInternalServerError || len(told) != 1 || !errors.Is(told[0], broken) {
		t.Errorf("%s, and told is %v", a.Status, told)
	}
}

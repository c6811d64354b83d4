package registryserver_test

import (
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
)

// Whichever replica somebody looks at, it shows what happened at others, and has receivers told by the one that delivers.
func TestActivityOfReplicas(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	var shared registryserver.Config
	one, _ := startIn(t, func(c *registryserver.Config) {
		shared = *c
		notified(h, receivers.PackageCreated)(c)
	})
	other, _ := startIn(t, func(c *registryserver.Config) {
		notified(h, receivers.PackageCreated)(c)
		c.Storage = shared.Storage
		c.Access.File = filepath.Join(shared.Storage.Dir+".state", "access.json")
		c.Keys = filepath.Join(shared.Storage.Dir+".state", "upload.keys")
	})
	if status := one.publish("/acme/charts/helm", charttest.New("web", "1.0.0", 0).Content, nil).StatusCode; status != http.StatusCreated {
		t.Fatal(status)
	}
	// The browser's part: a session, forms, and no redirect that is not looked at.
	cookie := ""
	send := func(r *running, path string, form url.Values) *http.Response {
		t.Helper()
		method := http.MethodGet
		if form != nil {
			method = http.MethodPost
		}
		request, err := http.NewRequestWithContext(t.Context(), method, r.public+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Cookie", cookie)
		answer, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	signedIn := send(other, "/-/sign-in", url.Values{"token": {one.token}})
	if signedIn.StatusCode != http.StatusSeeOther {
		t.Fatal(signedIn.Status)
	}
	cookie, _, _ = strings.Cut(signedIn.Header.Get("Set-Cookie"), ";")
	id := "crt_" + strings.Split(one.token, "_")[1]
	for _, r := range []*running{one, other} {
		eventually(t, "the push and what became of it are shown", func() bool {
			page := text(t, send(r, "/acme/charts/activity", nil))
			return strings.Contains(page, `href="/acme/charts/charts/web/1.0.0"`) && strings.Contains(page, id) && strings.Contains(page, ">Delivered<")
		})
	}
	for i, r := range []*running{one, other} {
		answer := send(r, "/acme/charts/activity", url.Values{"receiver": {"hook"}})
		if answer.StatusCode != http.StatusSeeOther {
			t.Fatal(answer.Status)
		}
		eventually(t, "the ping arrives", func() bool { return len(h.got()) == 2+i })
		record := r.recorded(answer.Header.Get("X-Request-Id"))
		if record.Action != audit.Notify || record.Result != audit.Done || record.Identity != id || record.Reference != "hook" {
			t.Errorf("recorded is %+v", record)
		}
	}
	if page := text(t, send(other, "/acme/charts/settings", nil)); !strings.Contains(page, "No operator") || !strings.Contains(page, ">listen<") {
		t.Errorf("the settings are %s", page)
	}
}

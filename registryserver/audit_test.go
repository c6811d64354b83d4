package registryserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver"
	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/opencontainers/go-digest"
)

// records are those that were written so far.
func (r *running) records() (all []audit.Record) {
	r.t.Helper()
	for line := range strings.Lines(r.audit.String()) {
		var one audit.Record
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			r.t.Fatalf("%v: %s", err, line)
		}
		all = append(all, one)
	}
	return all
}

// recorded waits for a record of an action with a request id.
func (r *running) recorded(request string) audit.Record {
	r.t.Helper()
	var found audit.Record
	eventually(r.t, "there is a record of "+request, func() bool {
		i := slices.IndexFunc(r.records(), func(one audit.Record) bool { return one.Request == request })
		if i >= 0 {
			found = r.records()[i]
		}
		return i >= 0
	})
	return found
}

func TestDecisionsAreRecorded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "audit.log")
	r := start(t, func(c *registryserver.Config) { c.Audit.File = file })
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	address := r.public + "/v2/acme/charts/tools/manifests/1.0.0"
	header := func(id string) map[string]string {
		return map[string]string{"X-Request-Id": id, "Content-Type": "application/vnd.oci.image.index.v1+json"}
	}
	r.request("PUT", address, strings.NewReader(manifest), header("push"))
	r.request("PUT", address, strings.NewReader(manifest+" "), header("move"))
	r.request("GET", address, nil, header("read"))
	wrong := header("wrong")
	wrong["Authorization"] = "Bearer " + r.token[:len(r.token)-3] + "xyz"
	r.request("GET", address, nil, wrong)
	typed := header("typed")
	typed["Authorization"] = "Bearer correct-horse"
	r.request("DELETE", address, nil, typed)
	r.request("DELETE", address, nil, header("delete"))

	d, id := digest.FromString(manifest).String(), r.token[:12]
	for _, want := range []audit.Record{
		{Request: "push", Action: audit.Push, Result: audit.Done, Reference: "1.0.0", Digest: d, Identity: id, Status: http.StatusCreated},
		{Request: "move", Action: audit.Push, Result: audit.Refused, Reference: "1.0.0", Identity: id, Status: http.StatusConflict, Reason: "versions are immutable here"},
		{Request: "wrong", Action: audit.Pull, Result: audit.Refused, Reference: "1.0.0", Status: http.StatusUnauthorized, Reason: "what came is no token of this program"},
		{Request: "typed", Action: audit.Delete, Result: audit.Refused, Reference: "1.0.0", Status: http.StatusUnauthorized, Reason: "what came is no token of this program"},
		{Request: "delete", Action: audit.Delete, Result: audit.Done, Reference: "1.0.0", Identity: id, Status: http.StatusAccepted},
	} {
		got := r.recorded(want.Request)
		if !strings.Contains(got.Reason, want.Reason) || want.Reason == "" && got.Reason != "" {
			t.Errorf("the reason of %s is %q", want.Request, got.Reason)
		}
		if !strings.HasPrefix(got.Source, "127.0.0.1:") || got.Time.IsZero() {
			t.Errorf("%s has no source or time: %+v", want.Request, got)
		}
		want.Chart, want.Registry = "tools", "acme/charts"
		want.Reason, want.Source, want.Time, want.Credential = got.Reason, got.Source, got.Time, got.Credential
		if gotJSON, wantJSON := encoded(t, got), encoded(t, want); gotJSON != wantJSON {
			t.Errorf("recorded %s, want %s", gotJSON, wantJSON)
		}
	}
	if !slices.ContainsFunc(r.records(), func(one audit.Record) bool { return one.Action == audit.Access && one.Result == audit.Done }) {
		t.Error("that a snapshot came into force is not recorded")
	}
	if slices.ContainsFunc(r.records(), func(one audit.Record) bool { return one.Request == "read" }) {
		t.Error("a read is recorded")
	}
	metrics := text(t, r.request("GET", r.metrics+"/metrics", nil, nil))
	for _, line := range []string{
		`chartroom_audit_records_total{action="push",result="done"} 1`, `chartroom_audit_records_total{action="push",result="refused"} 1`,
		`chartroom_audit_records_total{action="delete",result="refused"} 1`, `chartroom_oidc_issuers 0`,
	} {
		if !strings.Contains(metrics, line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, all := range map[string]string{"standard output": r.audit.String(), "the file": string(kept)} {
		if !strings.Contains(all, `"request":"delete"`) {
			t.Errorf("%s lacks the delete: %s", name, all)
		}
		for _, secret := range []string{r.token[13:40], "correct-horse", "Basic "} {
			if strings.Contains(all, secret) {
				t.Errorf("%s has %q", name, secret)
			}
		}
	}
}

func encoded(t *testing.T, r audit.Record) string {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReadsAreRecordedWhenTheyAreToBe(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *registryserver.Config) { c.Audit.Reads = true })
	r.request("GET", r.public+"/v2/acme/charts/web/tags/list", nil, map[string]string{"X-Request-Id": "list"})
	if got := r.recorded("list"); got.Action != audit.List || got.Chart != "web" || got.Identity != r.token[:12] {
		t.Errorf("recorded %+v", got)
	}
}

// A client says where it is only through proxies that are ours.
func TestForwardedAddresses(t *testing.T) {
	t.Parallel()
	forwarded := map[string]string{"X-Request-Id": "one", "X-Forwarded-For": "198.51.100.9, 203.0.113.7", "Authorization": "Bearer nobody"}
	for want, trusted := range map[string][]string{"203.0.113.7:0": {"127.0.0.0/8"}, "127.0.0.1:": nil} {
		r := start(t, func(c *registryserver.Config) { c.TrustedProxies = trusted })
		r.request("GET", r.public+"/v2/", nil, forwarded)
		if got := r.recorded("one").Source; !strings.HasPrefix(got, want) {
			t.Errorf("with proxies %v the source is %s", trusted, got)
		}
		// Failed logins are counted for the client, and not for the proxy with all others behind it.
		limited := func(from string) bool {
			answer := r.request("GET", r.public+"/v2/", nil, map[string]string{"X-Forwarded-For": from, "Authorization": "Bearer nobody"})
			return answer.StatusCode == http.StatusTooManyRequests
		}
		others := 0
		another := func() bool { // That nobody has seen before.
			others++
			return limited(fmt.Sprintf("198.51.%d.%d", others/250, 1+others%250))
		}
		eventually(t, "failed logins are too many", func() bool { return limited("203.0.113.7") })
		if trusted != nil && another() {
			t.Errorf("with proxies %v another client is counted with the first", trusted)
		}
		if trusted == nil {
			// On a slow machine the next failed login is let through by then.
			eventually(t, "another client is counted with the first", func() bool { return limited("203.0.113.7") && another() })
		}
	}
}

func TestRequestsOfAllPerSecond(t *testing.T) {
	t.Parallel()
	r := start(t, func(c *registryserver.Config) {
		c.Limits.RegistryRequestsPerSecond = 1
		c.TrustedProxies = []string{"127.0.0.0/8"}
		c.Access.Visibility = "public"
	})
	for i, want := range []int{http.StatusNotFound, http.StatusNotFound, http.StatusTooManyRequests} {
		header := map[string]string{"X-Forwarded-For": "203.0.113." + string(rune('1'+i))}
		if answer := r.request("GET", r.public+"/v2/acme/charts/web/tags/list", nil, header); answer.StatusCode != want {
			t.Errorf("request %d is answered %d, want %d", i, answer.StatusCode, want)
		}
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// metric reads a metric of a server; empty where it has none of that name.
func metric(t *testing.T, address, name string) string {
	t.Helper()
	answer, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (p *process) tags(chart string) string {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.base+"/v2/default/charts/"+chart+"/tags/list", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	request.SetBasicAuth("chartroom", p.token)
	answer, err := p.client.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	var list struct{ Tags []string }
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		p.t.Fatal(err)
	}
	return strings.Join(list.Tags, " ")
}

func (p *process) pull(chart, tag string) {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.base+"/v2/default/charts/"+chart+"/manifests/"+tag, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	request.SetBasicAuth("chartroom", p.token)
	answer, err := p.client.Do(request)
	if err != nil || answer.StatusCode != http.StatusOK {
		p.t.Fatalf("pull %s: %v, %v", tag, answer, err)
	}
	answer.Body.Close()
}

// Two servers on one directory: what one of them sees pulled stays, and the rest goes once it was shown.
func TestRetentionOfTwoServers(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	const quiet = `{keepPulledWithin: 24h, rules: [{keepNewest: 1000}]}`
	first := serveDir(t, folder, "--retention", quiet)
	second := serveDir(t, folder, "--retention", quiet)
	eventually(t, "it is noted what is pulled", func() bool {
		_, err := os.Stat(objectFile(folder, "retention", "plan.json"))
		return err == nil
	})
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0", "2.0.0"} {
		if err := first.push("web", version, 100); err != nil {
			t.Fatal(err)
		}
	}
	second.pull("web", "1.1.0")
	// What is in memory is written at the end.
	for _, p := range []*process{first, second} {
		if err := p.end(syscall.SIGTERM); err != nil {
			t.Fatalf("%v: %s", err, p.stderr)
		}
	}
	policy := filepath.Join(folder, "policy.yaml")
	if err := os.WriteFile(policy, []byte("delay: 3s\nkeepPulledWithin: 24h\nrules:\n- keepNewest: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, problems := chartroom(t, folder, "retention", "plan", "--policy", policy)
	if code != 0 || !strings.Contains(out, "2 of 4 versions") || strings.Contains(out, "1.1.0") || !strings.Contains(out, "it is not the newest") {
		t.Fatalf("exit code %d: %s%s", code, out, problems)
	}

	text, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	const all = "1.0.0 1.1.0 1.2.0 2.0.0"
	var servers []*process
	var addresses []string
	for i := range 2 {
		address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		p := serveDir(t, folder, "--retention", string(text), "--metrics-listen", address)
		servers, addresses = append(servers, p), append(addresses, address)
		if i == 0 {
			eventually(t, "the plan is shown", func() bool { return metric(t, address, "chartroom_retention_planned_versions") == "2" })
			if got := p.tags("web"); got != all {
				t.Errorf("when the plan is shown there is %q", got)
			}
		}
	}
	for _, p := range servers {
		eventually(t, "the versions are gone", func() bool { return p.tags("web") == "1.1.0 2.0.0" })
	}
	eventually(t, "both are counted", func() bool {
		sum := 0
		for _, address := range addresses {
			n := 0
			_, _ = fmt.Sscan(metric(t, address, "chartroom_retention_deleted_total"), &n)
			sum += n
		}
		return sum == 2
	})
	logs := servers[0].stderr.String() + servers[1].stderr.String()
	if n := strings.Count(logs, `msg="a version was deleted" who=retention chart=web`); n != 2 {
		t.Errorf("%d deletions are in the logs:\n%s", n, logs)
	}
}

func TestRetentionPlan(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	p := serveDir(t, folder)
	for _, version := range []string{"1.0.0", "2.0.0", "3.0.0-dev"} {
		if err := p.push("web", version, 100); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(folder, "server.yaml")
	if err := os.WriteFile(config, []byte(`{storage: {dir: data}, retention: {rules: [{versions: "<3.0.0", keepNewest: 1}]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, problems := chartroom(t, folder, "retention", "plan", "--config", config, "--all", "--output", "json")
	var plan struct {
		Seen, Going int
		Versions    []plannedVersion
	}
	if err := json.Unmarshal([]byte(out), &plan); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, problems)
	}
	if plan.Seen != 3 || plan.Going != 1 || len(plan.Versions) != 3 {
		t.Fatalf("%+v", plan)
	}
	if v := plan.Versions[0]; v.Tag != "1.0.0" || !v.Delete || v.Rule == nil || *v.Rule != 0 || v.PushedAt.IsZero() || v.Digest == "" || v.Chart != "web" {
		t.Errorf("%+v", v)
	}
	if v := plan.Versions[2]; v.Tag != "3.0.0-dev" || v.Delete || v.Rule != nil || v.Reason != "no rule selects it" {
		t.Errorf("%+v", v)
	}
	if got := p.tags("web"); got != "1.0.0 2.0.0 3.0.0-dev" {
		t.Errorf("after a plan there is %q", got)
	}
}

func TestRetentionRefuses(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	bad := filepath.Join(folder, "bad.yaml")
	if err := os.WriteFile(bad, []byte(`{rules: [{keepNewst: 1}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"retention", "plan"}, "there is no retention policy"},
		{[]string{"retention", "plan", "--policy", bad}, "the field keepNewst is unknown"},
		{[]string{"retention", "plan", "--policy", "missing.yaml"}, "reading the retention policy"},
		{[]string{"retention", "plan", "--output", "xml"}, "--output"},
		{[]string{"serve", "--retention", "{rules: [{tags: [a]}]}"}, "retention.rules[0]: has neither keepNewest nor olderThan"},
		{[]string{"serve", "--retention", "{rules: [{keepNewest: 1, versions: latest}]}"}, "retention.rules[0].versions"},
		{[]string{"serve", "--retention", strings.Repeat(" ", 100_000)}, "more than 65536 bytes"},
	} {
		code, _, problems := chartroom(t, folder, test.args...)
		if code == 0 || !strings.Contains(problems, test.want) {
			t.Errorf("%q: exit code %d: %s", test.args, code, problems)
		}
	}
	if _, err := os.Stat(filepath.Join(folder, "data")); !os.IsNotExist(err) {
		t.Errorf("something was made: %v", err)
	}
}

// freePort is a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // It listens on TCP.
}

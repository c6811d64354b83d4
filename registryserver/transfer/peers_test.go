package transfer_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/transfer"
	"github.com/google/go-cmp/cmp"
)

// peer starts a registry of others and returns its address.
func peer(t *testing.T, name string) string {
	t.Helper()
	program, err := exec.CommandContext(t.Context(), filepath.Join("..", "..", "hack", "tool"), name).Output()
	if err != nil {
		t.Fatalf("hack/tool %s: %v", name, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	address := listener.Addr().String()
	ok(t, listener.Close())
	args := []string{"registry", "serve", "--address", address}
	if name == "distribution" {
		config := filepath.Join(t.TempDir(), "config.yaml")
		ok(t, os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n", t.TempDir(), address), 0o600))
		args = []string{"serve", config}
	}
	command := exec.CommandContext(t.Context(), strings.TrimSpace(string(program)), args...)
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	ok(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		answer, err := http.Get("http://" + address + "/v2/")
		if err == nil {
			_ = answer.Body.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %v", name, err)
		}
	}
}

func oci(t *testing.T, address, path string, charts ...string) *transfer.OCI {
	t.Helper()
	o, err := transfer.NewOCI(t.Context(), transfer.Remote{URL: &url.URL{Scheme: "oci", Host: address, Path: path}, PlainHTTP: true}, charts, false)
	ok(t, err)
	return o
}

// Charts go to a registry of others and come back from it, byte for byte, with what refers to them.
func TestPeers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"distribution", "crane"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := peer(t, name)
			archive, _ := export(t, filled(t))
			l, err := layout(t, archive, "")
			ok(t, err)
			for _, line := range outcomes(t, l, oci(t, address, "/acme/charts"), transfer.Options{}) {
				if strings.HasPrefix(line, "failed ") || strings.HasPrefix(line, "conflict ") {
					t.Fatal(line)
				}
			}
			to, _ := newStore(t)
			source := oci(t, address, "/acme/charts")
			want := []string{"nginx 1.0.0", "nginx 1.1.0", "team/redis 2.0.0_build.1"}
			for _, outcome := range []string{"imported ", "present "} {
				var all []string
				for _, w := range want {
					all = append(all, outcome+w)
				}
				if diff := cmp.Diff(all, outcomes(t, source, transfer.Store{Store: to}, transfer.Options{})); diff != "" {
					t.Errorf("%s%s", outcome, diff)
				}
			}
			// These registries have no list of referrers of their own, so clients keep it under a tag, which comes too.
			selected := transfer.Selection{Chart: "nginx", Version: "1.0.0"}
			original, _ := export(t, filled(t), selected)
			back, _ := export(t, to, selected)
			if lost := slices.DeleteFunc(names(t, original), func(n string) bool { return slices.Contains(names(t, back), n) }); len(lost) != 0 {
				t.Errorf("what came back lacks %q", lost)
			}
			one, _ := newStore(t)
			if got := outcomes(t, oci(t, address, "/acme/charts/nginx"), transfer.Store{Store: one}, transfer.Options{}); !slices.Equal(got, []string{"imported nginx 1.0.0", "imported nginx 1.1.0"}) {
				t.Errorf("one chart: %q", got)
			}
			named, _ := newStore(t)
			if got := outcomes(t, oci(t, address, "/acme/charts", "team/redis"), transfer.Store{Store: named}, transfer.Options{}); !slices.Equal(got, []string{"imported team/redis 2.0.0_build.1"}) {
				t.Errorf("a chart by name: %q", got)
			}
			if _, err := oci(t, address, "/nobody").Versions(t.Context()); err == nil {
				t.Error("a namespace that holds nothing: no error")
			}
		})
	}
}

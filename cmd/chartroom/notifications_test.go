package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A server is killed while versions are pushed, again and again: whatever was answered with success is told.
func TestKilledServersTellOfAllPushes(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	told := map[string]bool{}
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e struct{ Type, Subject string }
		if json.NewDecoder(r.Body).Decode(&e) == nil {
			mu.Lock()
			defer mu.Unlock()
			told[e.Subject] = true
		}
	}))
	defer receiver.Close()
	folder := t.TempDir()
	serve := func() *process {
		return serveDir(t, folder, "--allow-egress-cidrs=127.0.0.0/8", fmt.Sprintf("--notifications=[{name: hook, url: %q, format: cloudevents}]", receiver.URL))
	}
	pushed := map[string]bool{}
	for round := range 4 {
		p := serve()
		var pushing sync.WaitGroup
		for chart := range 3 {
			pushing.Go(func() {
				for i := 0; ; i++ {
					name, version := fmt.Sprintf("chart%d", chart), fmt.Sprintf("%d.%d.0", round, i)
					if p.push(name, version, 100) != nil {
						return // It was killed.
					}
					mu.Lock()
					pushed[name+":"+version] = true
					mu.Unlock()
				}
			})
		}
		eventually(t, "versions were pushed", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(pushed) >= 10*(round+1)
		})
		_ = p.end(syscall.SIGKILL)
		pushing.Wait()
	}
	p := serve()
	missing := func() []string {
		mu.Lock()
		defer mu.Unlock()
		var names []string
		for name := range pushed {
			if !told[name] {
				names = append(names, name)
			}
		}
		return names
	}
	// It has to see first that the one before is gone, which takes longer than others wait for anything.
	for deadline := time.Now().Add(5 * time.Minute); len(missing()) > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not told: %v", missing())
		}
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Errorf("the server ended with %v: %s", err, strings.TrimSpace(p.stderr.String()))
	}
}

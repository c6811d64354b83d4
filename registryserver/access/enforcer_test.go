package access_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const registry = "team-a/charts"

// write replaces a file at once: who watches it never sees half of it.
func write(t *testing.T, path string, document []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", document, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// alone is the enforcer of a server alone, with that snapshot in its file.
func alone(t *testing.T, a wire.Access, change ...func(*access.EnforcerOptions)) *access.Enforcer {
	t.Helper()
	o := access.EnforcerOptions{Registry: registry, File: filepath.Join(t.TempDir(), "access.json")}
	for _, c := range change {
		c(&o)
	}
	write(t, o.File, a.Encode())
	enforcer := access.NewEnforcer(o)
	if s := enforcer.State(); s.Problem != "" || s.Digest != a.ContentDigest() {
		t.Fatalf("the snapshot is not in force: %+v", s)
	}
	return enforcer
}

// managed are the options of a pod: an operator pushes to it. There is no file yet.
func managed(t *testing.T) access.EnforcerOptions {
	t.Helper()
	return access.EnforcerOptions{Registry: registry, File: filepath.Join(t.TempDir(), "access.json"), StateDir: t.TempDir()}
}

// revision is a snapshot whose content belongs to its revision.
func revision(n uint64) wire.Access {
	return wire.Access{Revision: n, Registry: registry, Tokens: []wire.Token{{
		ID: "aaaaaaaa", SHA256: fmt.Sprintf("%064x", n), Scopes: wire.Scopes(), Charts: []string{"*"},
	}}}
}

func watch(t *testing.T, e *access.Enforcer) {
	t.Helper()
	e.SetPollInterval(time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch ended with %v", err)
		}
	})
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in ten seconds it did not happen that %s", what)
		}
	}
}

func valid(t *testing.T, e *access.Enforcer, token access.Token) bool {
	t.Helper()
	_, err := e.Authenticate(t.Context(), access.Credentials{Secret: token.Reveal(), Present: true})
	return err == nil
}

func TestNobodyIsAdmittedWithoutASnapshot(t *testing.T) {
	options := managed(t)
	options.Visibility = wire.Public
	for name, prepare := range map[string]func(){
		"no file":        func() {},
		"no options":     func() { options.File, options.StateDir = "", "" },
		"a folder":       func() { options.File = t.TempDir() },
		"not a snapshot": func() { options.File = filepath.Join(t.TempDir(), "x"); write(t, options.File, []byte("{")) },
	} {
		prepare()
		enforcer := access.NewEnforcer(options)
		if s := enforcer.State(); s.Revision != 0 || s.Digest != "" || s.Problem == "" {
			t.Errorf("%s: %+v", name, s)
		}
		if valid(t, enforcer, mint(t)) {
			t.Errorf("%s: a token is valid", name)
		}
		anonymous, err := enforcer.Authenticate(t.Context(), access.Credentials{})
		if err != nil || enforcer.Authorize(anonymous, wire.ReadPackages, "a").Allowed {
			t.Errorf("%s: anonymous may read (%v)", name, err)
		}
	}
}

func TestVisibilityIsOverridden(t *testing.T) {
	for _, c := range []struct {
		snapshot, option wire.Visibility
		public           bool
	}{
		{wire.Private, "", false},
		{wire.Public, "", true},
		{wire.Private, wire.Public, true},
		{wire.Public, wire.Private, false},
		{wire.Public, "public?", false},
	} {
		enforcer := alone(t, wire.Access{Visibility: c.snapshot}, func(o *access.EnforcerOptions) { o.Visibility = c.option })
		anonymous, _ := enforcer.Authenticate(t.Context(), access.Credentials{})
		if got := enforcer.Authorize(anonymous, wire.ReadPackages, "a").Allowed; got != c.public {
			t.Errorf("%q, overridden by %q: public is %v", c.snapshot, c.option, got)
		}
	}
}

// For a server alone the file is the truth: it may go back, and it may be written by hand.
func TestAloneTheFileIsTaken(t *testing.T) {
	first, second := mint(t), mint(t)
	file := filepath.Join(t.TempDir(), "access.json")
	write(t, file, wire.Access{Revision: 5, Tokens: []wire.Token{entry(first)}}.Encode())
	enforcer := access.NewEnforcer(access.EnforcerOptions{Registry: registry, File: file})
	watch(t, enforcer)
	id, err := enforcer.Authenticate(t.Context(), access.Credentials{Secret: first.Reveal(), Present: true})
	if err != nil {
		t.Fatal(err)
	}

	write(t, file, wire.Access{Revision: 3, Tokens: []wire.Token{entry(second)}}.Encode())
	eventually(t, "the second token is valid", func() bool { return valid(t, enforcer, second) })
	if valid(t, enforcer, first) {
		t.Error("the first token is still valid")
	}
	// It was revoked after it was authenticated.
	if d := enforcer.Authorize(id, wire.ReadPackages, "a"); d.Allowed || !strings.Contains(d.Reason, "revoked") {
		t.Errorf("who was authenticated by a token that has been revoked: %+v", d)
	}

	good := enforcer.State()
	for name, document := range map[string][]byte{
		"half of one":      wire.Access{Revision: 9}.Encode()[:40],
		"a later version":  []byte(`{"version":3}`),
		"another registry": wire.Access{Revision: 9, Registry: "team-b/charts"}.Encode(),
		"an unknown scope": []byte(`{"version":1,"tokens":[{"id":"aaaaaaaa","sha256":"` + first.SHA256() + `","scopes":["all"],"charts":["*"]}]}`),
		"too many bytes":   append(wire.Access{Revision: 9}.Encode(), make([]byte, wire.MaxAccessBytes)...),
		"an endless field": []byte(`{"version":1,"` + strings.Repeat("x", 100_000) + `":1}`),
	} {
		before := enforcer.State()
		write(t, file, document)
		eventually(t, "there is a problem with "+name, func() bool {
			s := enforcer.State()
			return s.Problem != "" && s.Problem != before.Problem
		})
		s := enforcer.State()
		if !strings.Contains(s.Problem, file) || len(s.Problem) > 1000 || strings.Contains(s.Problem, first.SHA256()) {
			t.Errorf("%s: the problem is said as %q", name, s.Problem)
		}
		if s.Revision != good.Revision || s.Digest != good.Digest || !valid(t, enforcer, second) {
			t.Errorf("%s: the last good one is not in force: %+v", name, s)
		}
	}

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file is missed", func() bool { return strings.Contains(enforcer.State().Problem, "no such file") })
	if !valid(t, enforcer, second) {
		t.Error("the last good one is not in force once the file is gone")
	}
	write(t, file, []byte(`{"version": 1, "visibility": "Public"}`))
	eventually(t, "the file is taken again", func() bool { return enforcer.State().Problem == "" })
	if valid(t, enforcer, second) {
		t.Error("the token is still valid")
	}
}

// A mounted Secret is swapped as a whole, by a symbolic link to its folder.
func TestTheFileInAMountedSecret(t *testing.T) {
	mount := t.TempDir()
	swap := func(n uint64) {
		folder := filepath.Join(mount, fmt.Sprintf("..%d", n))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, "access.json"), revision(n).Encode())
		if err := errors.Join(os.Symlink(filepath.Base(folder), filepath.Join(mount, "..tmp")), os.Rename(filepath.Join(mount, "..tmp"), filepath.Join(mount, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	swap(1)
	options := managed(t)
	options.File = filepath.Join(mount, "access.json")
	if err := os.Symlink("..data/access.json", options.File); err != nil {
		t.Fatal(err)
	}
	enforcer := access.NewEnforcer(options)
	watch(t, enforcer)
	if s := enforcer.State(); s.Revision != 1 {
		t.Fatalf("at the start: %+v", s)
	}
	swap(2)
	eventually(t, "revision 2 is in force", func() bool { return enforcer.State().Revision == 2 })
}

func TestPush(t *testing.T) {
	enforcer := access.NewEnforcer(managed(t))
	other := revision(2)
	other.Visibility = wire.Public
	foreign := revision(9)
	foreign.Registry = "team-b/charts"
	damaged := []byte(strings.Replace(string(revision(9).Encode()), "aaaaaaaa", "bbbbbbbb", 1))
	for _, step := range []struct {
		name     string
		document []byte
		revision uint64
		problem  string
		want     error
	}{
		{"rubbish first", []byte("{"), 0, "not JSON", access.ErrRefused},
		{"no revision", revision(0).Encode(), 0, "revision is 0", access.ErrRefused},
		{"the first", revision(1).Encode(), 1, "", nil},
		{"a later one", revision(2).Encode(), 2, "", nil},
		{"the same", revision(2).Encode(), 2, "", nil},
		{"an older one", revision(1).Encode(), 2, "", access.ErrOlder},
		{"another of the same revision", other.Encode(), 2, "", access.ErrOlder},
		{"another registry's", foreign.Encode(), 2, `"team-b/charts"`, access.ErrRefused},
		{"a later version", []byte(`{"version":3,"revision":3}`), 2, "version 3", access.ErrRefused},
		{"a damaged one", damaged, 2, "damaged", access.ErrRefused},
		{"too many bytes", append(revision(9).Encode(), make([]byte, wire.MaxAccessBytes)...), 2, "more than the", access.ErrRefused},
		{"an endless field", []byte(`{"version":1,"` + strings.Repeat("x", 100_000) + `":1}`), 2, "unknown field", access.ErrRefused},
		{"an older one after a bad one", revision(1).Encode(), 2, "unknown field", access.ErrOlder},
		{"the same after a bad one", revision(2).Encode(), 2, "", nil},
		{"the next", revision(3).Encode(), 3, "", nil},
	} {
		state, err := enforcer.Push(step.document)
		if !errors.Is(err, step.want) || (err != nil) != (step.want != nil) {
			t.Errorf("%s: %v, want %v", step.name, err, step.want)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("%s: the error has %d bytes", step.name, len(err.Error()))
		}
		if state != enforcer.State() {
			t.Errorf("%s: answered %+v, while %+v is in force", step.name, state, enforcer.State())
		}
		if state.Revision != step.revision || (state.Problem == "") != (step.problem == "") || !strings.Contains(state.Problem, step.problem) {
			t.Errorf("%s: %+v", step.name, state)
		}
		if want := revision(step.revision).ContentDigest(); step.revision > 0 && state.Digest != want {
			t.Errorf("%s: digest %s, want %s", step.name, state.Digest, want)
		}
	}
}

func TestPushedIsClosedAtTheFirstSuccess(t *testing.T) {
	enforcer := access.NewEnforcer(managed(t))
	closed := func() bool {
		select {
		case <-enforcer.Pushed():
			return true
		default:
			return false
		}
	}
	if _, err := enforcer.Push([]byte("{")); err == nil || closed() {
		t.Errorf("after a refusal (%v) it is closed: %v", err, closed())
	}
	for range 2 {
		if _, err := enforcer.Push(revision(1).Encode()); err != nil || !closed() {
			t.Errorf("after a success (%v) it is closed: %v", err, closed())
		}
	}
}

func TestAServerAloneRefusesPushes(t *testing.T) {
	enforcer := alone(t, revision(1))
	if state, err := enforcer.Push(revision(2).Encode()); !errors.Is(err, access.ErrRefused) || state.Revision != 1 {
		t.Errorf("%+v, %v", state, err)
	}
}

func TestWhatWasPushedHoldsAfterARestart(t *testing.T) {
	options := managed(t)
	write(t, options.File, revision(3).Encode())
	before := access.NewEnforcer(options)
	// The floor is in force already; once it was pushed, it must hold even if the mount goes back.
	for _, n := range []uint64{3, 5} {
		if _, err := before.Push(revision(n).Encode()); err != nil {
			t.Fatal(err)
		}
		write(t, options.File, revision(2).Encode())
		if got := access.NewEnforcer(options).State(); got != before.State() || got.Revision != n {
			t.Errorf("%+v, before the restart it was %+v", got, before.State())
		}
	}
	kept := filepath.Join(options.StateDir, "access.json")
	if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if files, err := os.ReadDir(options.StateDir); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
	// A state that was damaged is no reason not to start.
	write(t, kept, []byte("{"))
	var told []string
	options.Changed = func(source string, s wire.AccessState, problem error) {
		told = append(told, fmt.Sprint(source, " ", s.Revision, " ", problem != nil))
	}
	if got := access.NewEnforcer(options).State(); got.Revision != 2 {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff([]string{"state 0 true", "file 2 false"}, told); diff != "" {
		t.Error(diff)
	}
}

// Beside a push the file is only the floor: what it says is told when it contradicts, and never twice.
func TestTheFileBesidePushes(t *testing.T) {
	options := managed(t)
	var told []string
	options.Changed = func(source string, s wire.AccessState, problem error) {
		told = append(told, fmt.Sprint(source, " ", s.Revision, " ", problem != nil))
	}
	enforcer := access.NewEnforcer(options)
	if _, err := enforcer.Push(revision(2).Encode()); err != nil {
		t.Fatal(err)
	}
	other := revision(2)
	other.Visibility = wire.Public
	if _, err := enforcer.Push(revision(1).Encode()); err == nil || enforcer.State().Problem != "" {
		t.Errorf("an older push: %v, %+v", err, enforcer.State())
	}
	for _, document := range []wire.Access{revision(1), other, revision(2), revision(3)} {
		write(t, options.File, document.Encode())
		enforcer.LookAtFile()
		enforcer.LookAtFile()
	}
	want := []string{"file 0 true", "push 2 false", "push 2 true", "file 2 false", "file 2 true", "file 2 false", "file 3 false"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
}

// What could not be kept is not confirmed, or it would be forgotten by the next start.
func TestAPushThatCannotBeKeptFails(t *testing.T) {
	options := managed(t)
	enforcer := access.NewEnforcer(options)
	if err := os.RemoveAll(options.StateDir); err != nil {
		t.Fatal(err)
	}
	state, err := enforcer.Push(revision(1).Encode())
	if err == nil || errors.Is(err, access.ErrOlder) || errors.Is(err, access.ErrRefused) || state.Revision != 0 || state.Problem == "" {
		t.Errorf("%+v, %v", state, err)
	}
	if err := os.Mkdir(options.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if state, err := enforcer.Push(revision(1).Encode()); err != nil || state.Revision != 1 || state.Problem != "" {
		t.Errorf("once the folder is back: %+v, %v", state, err)
	}
}

// Whatever happens in whatever order, the revision in force is the highest of those that were seen by the process or
// pushed to one before it, and never goes backwards but by a restart that had it from the file alone.
func TestRevisionsNeverGoBackwards(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		options := managed(t)
		enforcer := access.NewEnforcer(options)
		var file, pushed, highest uint64
		var steps []string
		for range 40 {
			n := 1 + random.Uint64N(30)
			switch random.IntN(3) {
			case 0:
				steps = append(steps, fmt.Sprint("file ", n))
				write(t, options.File, revision(n).Encode())
				enforcer.LookAtFile()
				file = n
				highest = max(highest, n)
			case 1:
				steps = append(steps, fmt.Sprint("push ", n))
				_, err := enforcer.Push(revision(n).Encode())
				if wantErr := n < highest; (err != nil) != wantErr {
					t.Fatalf("seed %d, %v: %v", seed, steps, err)
				}
				if err == nil {
					pushed, highest = n, n
				}
			case 2:
				steps = append(steps, "restart")
				enforcer = access.NewEnforcer(options)
				highest = max(file, pushed)
			}
			if s := enforcer.State(); s.Revision != highest || (highest > 0 && s.Digest != revision(highest).ContentDigest()) {
				t.Fatalf("seed %d, %v: %d is in force, want %d (%s)", seed, steps, s.Revision, highest, s.Problem)
			}
		}
	}
}

// Readers see one snapshot or the other, and each push by the time it was answered.
func TestAuthenticateDuringPushes(t *testing.T) {
	stays := mint(t)
	options := managed(t)
	enforcer := access.NewEnforcer(options)
	push := func(n uint64, extra access.Token) {
		a := wire.Access{Revision: n, Registry: registry, Tokens: []wire.Token{entry(stays), entry(extra)}}
		if _, err := enforcer.Push(a.Encode()); err != nil {
			t.Error(err)
		}
	}
	push(1, mint(t))
	watch(t, enforcer)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id, err := enforcer.Authenticate(context.Background(), access.Credentials{Secret: stays.Reveal(), Present: true})
				if err != nil || !enforcer.AuthorizePush(id, "a").Allowed {
					t.Errorf("a token in every snapshot is refused: %v", err)
					return
				}
			}
		})
	}
	for n := uint64(2); n < 40; n += 2 {
		extra := mint(t)
		push(n, extra)
		if !valid(t, enforcer, extra) {
			t.Errorf("revision %d was answered and is not in force", n)
		}
		push(n+1, mint(t))
		if valid(t, enforcer, extra) {
			t.Errorf("revision %d was answered, and a token that it does not have is valid", n+1)
		}
	}
	close(stop)
	readers.Wait()
}

// What is remembered of a header must not let anybody in who would be refused without that.
func TestIdentifyAgain(t *testing.T) {
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	token, expires := mint(t), now.Add(time.Minute)
	a := wire.Access{Revision: 1, Registry: registry, Tokens: []wire.Token{{
		ID: token.ID(), SHA256: token.SHA256(), Scopes: wire.Scopes(), Charts: []string{"*"}, ExpiresAt: &expires,
	}}}
	o := managed(t)
	o.Now = func() time.Time { return now }
	e := access.NewEnforcer(o)
	push := func(a wire.Access) {
		t.Helper()
		if _, err := e.Push(a.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	identify := func(wanted bool, headers ...string) {
		t.Helper()
		r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
		r.Header["Authorization"] = headers
		for range 3 {
			id, err := e.Identify(r)
			if (err == nil) != wanted || wanted && id.ID != token.String() {
				t.Fatalf("%v, %v", id, err)
			}
			if wanted != e.Authorize(id, wire.ReadPackages, "a").Allowed {
				t.Fatal("it may not read what it is")
			}
		}
	}
	header := "Bearer " + token.Reveal()
	identify(false, header)
	push(a)
	identify(true, header)
	identify(false, header, header)
	identify(false, header+"x")
	for i := range 5000 { // More names than are remembered, and longer ones.
		r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
		r.SetBasicAuth(strings.Repeat("n", i%1000)+strconv.Itoa(i), token.Reveal())
		if id, err := e.Identify(r); err != nil || id.ID != token.String() {
			t.Fatal(id, err)
		}
	}
	identify(true, header)
	a.Revision, a.Tokens = 2, append(a.Tokens, revision(2).Tokens...)
	push(a)
	identify(true, header)
	a.Revision, a.Tokens = 3, a.Tokens[1:]
	push(a)
	identify(false, header)
	a.Revision, a.Tokens = 4, append(a.Tokens, wire.Token{
		ID: token.ID(), SHA256: token.SHA256(), Scopes: wire.Scopes(), Charts: []string{"*"}, ExpiresAt: &expires,
	})
	push(a)
	identify(true, header)
	now = expires
	identify(false, header)
	anonymous, err := e.Identify(httptest.NewRequest(http.MethodGet, "/v2/", nil))
	if err != nil || !anonymous.Anonymous {
		t.Error(anonymous, err)
	}
}

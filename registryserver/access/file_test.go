package access_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func add(token access.Token) func(*wire.Access) error {
	return func(a *wire.Access) error {
		a.Tokens = append(a.Tokens, entry(token))
		return nil
	}
}

func names(t *testing.T, folder string) string {
	t.Helper()
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range files {
		list = append(list, f.Name())
	}
	return strings.Join(list, " ")
}

func TestEditFileCreatesAPrivateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.json")
	// An earlier program was killed in the middle.
	write(t, path+".tmp", []byte("half"))
	write(t, path+".lock", nil)
	if err := os.Chmod(path+".tmp", 0o666); err != nil {
		t.Fatal(err)
	}
	token := mint(t)
	if err := access.EditFile(path, add(token)); err != nil {
		t.Fatal(err)
	}
	a, err := access.ReadFile(path)
	if err != nil || a.Revision != 1 || a.Visibility != wire.Private || len(a.Tokens) != 1 || a.Tokens[0].ID != token.ID() {
		t.Errorf("%+v, %v", a, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if got := names(t, filepath.Dir(path)); got != "access.json" {
		t.Errorf("left behind: %s", got)
	}
	if data, _ := os.ReadFile(path); strings.Contains(string(data), strings.Split(token.Reveal(), "_")[2]) {
		t.Error("the file has the secret in it")
	}
}

func owner(info fs.FileInfo) [2]uint32 {
	stat := info.Sys().(*syscall.Stat_t)
	return [2]uint32{stat.Uid, stat.Gid}
}

func TestEditFileKeepsModeAndOwnerAndLinks(t *testing.T) {
	const nobody, somebody = -1, 4711
	for name, of := range map[string][2]int{"another's": {somebody, somebody}, "another user's": {somebody, nobody}, "another group's": {nobody, somebody}} {
		t.Run(name, func(t *testing.T) { keepsModeAndOwnerAndLinks(t, of[0], of[1]) })
	}
}

func keepsModeAndOwnerAndLinks(t *testing.T, user, group int) {
	t.Helper()
	folder := t.TempDir()
	path, link := filepath.Join(folder, "access.json"), filepath.Join(t.TempDir(), "link")
	write(t, path, wire.Access{Revision: 41}.Encode())
	if os.Getuid() == 0 {
		if err := os.Chown(path, user, group); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(path, 0o640), os.Symlink(path, link)); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(path)
	if err := access.EditFile(link, add(mint(t))); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || after.Mode() != before.Mode() {
		t.Errorf("mode %v, was %v, %v", after.Mode(), before.Mode(), err)
	}
	if got, want := owner(after), owner(before); got != want {
		t.Errorf("user and group %d, were %d", got, want)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
	if a, err := access.ReadFile(path); err != nil || a.Revision != 42 {
		t.Errorf("revision %d, %v", a.Revision, err)
	}
}

func TestEditFileWritesNothingWhenItFails(t *testing.T) {
	refused := errors.New("refused")
	for name, c := range map[string]struct {
		content string // Empty: no file.
		edit    func(*wire.Access) error
		want    string
	}{
		"refused by edit":      {string(revision(1).Encode()), func(*wire.Access) error { return refused }, "refused"},
		"refused, and no file": {"", func(*wire.Access) error { return refused }, "refused"},
		"an invalid token": {string(revision(1).Encode()), func(a *wire.Access) error {
			a.Tokens[0].Scopes = nil
			return nil
		}, "scopes"},
		"a broken file":     {"{", func(*wire.Access) error { return nil }, "not JSON"},
		"a later version":   {`{"version":3}`, func(*wire.Access) error { return nil }, "version 3"},
		"more than allowed": {string(revision(1).Encode()), grow, "revoke tokens"},
	} {
		folder := t.TempDir()
		path := filepath.Join(folder, "access.json")
		if c.content != "" {
			write(t, path, []byte(c.content))
		}
		err := access.EditFile(path, c.edit)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if data, _ := os.ReadFile(path); string(data) != c.content {
			t.Errorf("%s: the file became %q", name, data)
		}
		if got := names(t, folder); got != "access.json" && got != "" {
			t.Errorf("%s: left behind: %s", name, got)
		}
	}
	err := access.EditFile(filepath.Join(t.TempDir(), "missing", "access.json"), add(mint(t)))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	if err := access.EditFile(filepath.Join(file, "access.json"), add(mint(t))); err == nil || !strings.Contains(err.Error(), "locking the access file") {
		t.Errorf("a file in place of the folder: %v", err)
	}
}

// What could not be written is not called done, and leaves nothing behind.
func TestEditFileSaysThatItCannotWrite(t *testing.T) {
	for name, inTheWay := range map[string]func(path string) error{
		"a folder in place of the new file": func(path string) error { return os.MkdirAll(path+".tmp/somebody's", 0o700) },
		"a folder in place of the old file": func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		},
		"a link to itself": func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink(path, path))
		},
	} {
		path := filepath.Join(t.TempDir(), "access.json")
		write(t, path, revision(1).Encode())
		before := ""
		err := access.EditFile(path, func(*wire.Access) error {
			err := inTheWay(path)
			before = strings.Replace(names(t, filepath.Dir(path)), " access.json.lock", "", 1)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "writing the access file") {
			t.Errorf("%s: %v", name, err)
		}
		if got := names(t, filepath.Dir(path)); got != before {
			t.Errorf("%s: left behind: %s, there were %s", name, got, before)
		}
	}
}

// grow makes a snapshot of valid tokens that is too large.
func grow(a *wire.Access) error {
	large := a.Tokens[0]
	large.Charts = nil
	for range access.MaxCharts {
		large.Charts = append(large.Charts, strings.Repeat("a", 256))
	}
	for range 100 {
		a.Tokens = append(a.Tokens, large)
	}
	return nil
}

// Two programs that add a token at once both succeed.
func TestEditsAtOnceLoseNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.json")
	const editors, each = 4, 5
	var group sync.WaitGroup
	for range editors {
		group.Go(func() {
			for range each {
				if err := access.EditFile(path, add(mint(t))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	a, err := access.ReadFile(path)
	if err != nil || len(a.Tokens) != editors*each || a.Revision != editors*each {
		t.Errorf("%d tokens, revision %d, %v", len(a.Tokens), a.Revision, err)
	}
}

// Who edits second begins when the first has ended, and sees what the first wrote.
func TestTheSecondEditWaitsForTheFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.json")
	began, ended := make(chan struct{}), make(chan error)
	err := access.EditFile(path, func(a *wire.Access) error {
		go func() {
			ended <- access.EditFile(path, func(a *wire.Access) error {
				close(began)
				return add(mint(t))(a)
			})
		}()
		select {
		case <-began:
			t.Error("two edit at once")
		case err := <-ended:
			t.Fatalf("the second did not wait: %v", err)
		case <-time.After(50 * time.Millisecond): // What must not happen cannot be waited for.
		}
		return add(mint(t))(a)
	})
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	if a, err := access.ReadFile(path); err != nil || a.Revision != 2 || len(a.Tokens) != 2 {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestReadFileRefuses(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "access.json")
	if _, err := access.ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := access.ReadFile(folder); err == nil {
		t.Error("a folder was read")
	}
	write(t, path, []byte(`{"version":1,"visibility":"Open"}`))
	if _, err := access.ReadFile(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("an unknown visibility: %v", err)
	}
	if _, err := access.ReadFile(os.DevNull); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a device: %v", err)
	}
	document := wire.Access{Version: 1}.Encode()
	for more, taken := range []bool{true, false} {
		write(t, path, append(document, strings.Repeat(" ", wire.MaxAccessBytes-len(document)+more)...))
		if _, err := access.ReadFile(path); (err == nil) != taken {
			t.Errorf("%d bytes more than are allowed: %v", more, err)
		}
	}
}

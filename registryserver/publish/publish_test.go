package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/bucket/dir"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/leaktest"
	"github.com/chartroom-dev/chartroom/registryserver/publish"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/opencontainers/go-digest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func ok(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func newStore(tb testing.TB) *repository.Store {
	tb.Helper()
	return newStoreIn(tb, tb.TempDir())
}

func newStoreIn(tb testing.TB, folder string) *repository.Store {
	tb.Helper()
	b, err := dir.New(filepath.Join(folder, "data"))
	ok(tb, err)
	s, err := repository.Open(tb.Context(), b, "acme/charts", repository.Options{Check: chart.NewRules(chart.Any).Check})
	ok(tb, err)
	return s
}

const boundary = "b"

// form is a form with fields of names and contents.
func form(fields ...string) []byte {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	_ = w.SetBoundary(boundary)
	for i := 0; i < len(fields); i += 2 {
		part, _ := w.CreateFormFile(fields[i], "x")
		_, _ = io.WriteString(part, fields[i+1])
	}
	_ = w.Close()
	return b.Bytes()
}

func anybody(string) error { return nil }

// The manifest in testdata was made by helm 4.3.1 of the chart beside it, with `helm push`.
func TestMakeMakesWhatHelmPushes(t *testing.T) {
	archive, err := os.ReadFile("testdata/old.tgz")
	ok(t, err)
	want, err := os.ReadFile("testdata/old.manifest.json")
	ok(t, err)
	a := publish.Archive{Digest: digest.FromBytes(archive), Size: int64(len(archive)), Created: time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)}
	made, err := publish.Make(bytes.NewReader(archive), a)
	ok(t, err)
	if string(made.Manifest) != string(want) || made.Name != "old" || made.Tag() != "0.9.0-rc.1_b1" {
		t.Errorf("it is %s %s\n%s\nhelm's is\n%s", made.Name, made.Version, made.Manifest, want)
	}
}

// What goes wrong with the storage is not the archive's fault.
func TestMakeTellsWhoseFaultItIs(t *testing.T) {
	content := charttest.New("web", "1.0.0", 0).Content
	_, err := publish.Make(io.MultiReader(bytes.NewReader(content[:50]), iotest.ErrReader(bucket.ErrUnavailable)), publish.Archive{Size: int64(len(content))})
	if !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	invalid := new(repository.InvalidManifestError)
	if _, err := publish.Make(bytes.NewReader(content[:50]), publish.Archive{}); !errors.As(err, &invalid) {
		t.Errorf("error %v", err)
	}
}

// What would take many times its size in memory is refused before it is read, whatever breaks its lines.
func TestMakeBoundsValues(t *testing.T) {
	for _, values := range []string{"- a\n", "- a\r", "- a\u0085", "- a\u2028", "- a\u2029", strings.Repeat("- ", 100) + "a\n"} {
		metadata := "apiVersion: v2\nname: web\nversion: 1.0.0\nkeywords:\n" + strings.Repeat(values, 700_000/len(values))
		content := charttest.Archive(charttest.File("web/Chart.yaml", metadata))
		_, err := publish.Make(bytes.NewReader(content), publish.Archive{Digest: digest.FromBytes(content), Size: int64(len(content))})
		if err == nil || !strings.Contains(err.Error(), "too many values") {
			t.Errorf("with %.9q: %v", values, err)
		}
	}
}

func TestWhoMayIsAskedFirst(t *testing.T) {
	s := newStore(t)
	p := publish.New(s)
	denied := errors.New("no")
	content := string(charttest.New("web", "1.0.0", 0).Content)
	for to, want := range map[string]string{"": "web", "team/web": "team/web"} {
		var asked []string
		_, err := p.Form(t.Context(), bytes.NewReader(form("file", content)), boundary, publish.Request{To: to, May: func(name string) error {
			asked = append(asked, name)
			return denied
		}})
		if !errors.Is(err, denied) || len(asked) != 1 || asked[0] != want {
			t.Errorf("%v, asked for %v", err, asked)
		}
	}
	if names, _, err := s.Repositories(t.Context(), 0, ""); err != nil || len(names) > 0 {
		t.Errorf("%v, %v", names, err)
	}
}

// What breaks off in the middle leaves nothing behind.
func TestBrokenUploadsLeaveNothing(t *testing.T) {
	folder := t.TempDir()
	p := publish.New(newStoreIn(t, folder))
	const head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n"
	for _, size := range []int{10, 1 << 20} {
		broken := errors.New("gone")
		body := io.MultiReader(strings.NewReader(head), bytes.NewReader(make([]byte, size)), iotest.ErrReader(broken))
		if _, err := p.Form(t.Context(), body, boundary, publish.Request{To: "web", May: anybody}); !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
	}
	ok(t, filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(path, "charts") {
			t.Errorf("%s was stored", path)
		}
		return err
	}))
}

func TestPublishedAtOnce(t *testing.T) {
	p := publish.New(newStore(t))
	var publishing sync.WaitGroup
	for i := range 48 {
		publishing.Go(func() {
			// Of each version there are several, half of them of other content.
			content := string(charttest.New("web", fmt.Sprintf("1.0.%d", i%12), 300*(i%2)).Content)
			result, err := p.Form(t.Context(), bytes.NewReader(form("chart", content)), boundary, publish.Request{By: "x", May: anybody})
			if err != nil && !errors.Is(err, repository.ErrTagImmutable) || err == nil && result.Chart != "web" {
				t.Errorf("%+v, %v", result, err)
			}
		})
	}
	publishing.Wait()
}

// One who publishes slowly leaves places for others; and all of them together do not take all memory.
func TestPlacesAreBounded(t *testing.T) {
	p := publish.New(newStore(t))
	held, write := io.Pipe()
	var publishing sync.WaitGroup
	begun := make(chan struct{})
	hold := func(by string) {
		publishing.Go(func() {
			body := io.MultiReader(signal{begun}, held)
			if _, err := p.Form(t.Context(), body, boundary, publish.Request{By: by, May: anybody}); err == nil || errors.Is(err, publish.ErrBusy) {
				t.Errorf("%s: %v", by, err)
			}
		})
		<-begun
	}
	ended, end := context.WithCancel(t.Context())
	end() // It would wait otherwise.
	refused := func(by string) {
		t.Helper()
		if _, err := p.Form(ended, strings.NewReader(""), boundary, publish.Request{By: by, May: anybody}); !errors.Is(err, publish.ErrBusy) {
			t.Errorf("one more of %s: %v", by, err)
		}
	}
	for _, by := range []string{"a", "b", "c", "d"} {
		for range 8 {
			hold(by)
		}
		refused(by)
	}
	refused("e")
	ok(t, write.Close())
	publishing.Wait()
	if _, err := p.Form(t.Context(), bytes.NewReader(form("file", string(charttest.New("web", "1.0.0", 0).Content))), boundary, publish.Request{By: "e", May: anybody}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// signal tells once that it is read, and is empty.
type signal struct{ to chan<- struct{} }

func (s signal) Read([]byte) (int, error) {
	s.to <- struct{}{}
	return 0, io.EOF
}

// However a form is cut, or with whatever it is filled: nothing panics, and what is published is a chart.
func FuzzForm(f *testing.F) {
	content := string(charttest.New("web", "1.0.0", 0).Content)
	prov := "-----BEGIN PGP SIGNED MESSAGE-----\n" + digest.FromString(content).String()
	f.Add(form("file", content), "")
	f.Add(form("chart", content, "prov", prov), "team/web")
	f.Add(form("prov", prov), "")
	f.Add([]byte("--b\r\n\r\n\r\n--b--"), "..")
	s := newStore(f)
	p := publish.New(s)
	f.Fuzz(func(t *testing.T, body []byte, to string) {
		result, err := p.Form(t.Context(), bytes.NewReader(body), boundary, publish.Request{To: to, May: anybody})
		if err != nil {
			return
		}
		r, err := s.Repository(result.Chart)
		ok(t, err)
		stored, d, err := publish.Layers(t.Context(), r, result.Tag)
		if err != nil || d != result.Digest || stored.Archive.Digest != result.Archive {
			t.Errorf("%+v is %+v, %v", result, stored, err)
		}
	})
}

func FuzzMake(f *testing.F) {
	f.Add(charttest.Tar(charttest.File("web/Chart.yaml", "apiVersion: v2\nname: web\nversion: 1.0.0\nmaintainers: [{name: a}]\n")))
	f.Add(charttest.Tar(charttest.File("web/Chart.yaml", "name: [a]\nx: &a [*a]\n"), charttest.File("web/requirements.yaml", "dependencies: [{name: x}]")))
	f.Fuzz(func(_ *testing.T, tar []byte) {
		zipped := charttest.Zip(tar)
		_, _ = publish.Make(bytes.NewReader(zipped), publish.Archive{Size: int64(len(zipped))})
	})
}

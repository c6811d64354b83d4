package chart_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/chart/charttest"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/google/go-cmp/cmp"
)

const webYAML = "apiVersion: v2\nname: web\nversion: 1.2.3\n"

var webFile = charttest.File("web/Chart.yaml", webYAML)

func scan(tb testing.TB, archive []byte) (chart.Metadata, error) {
	tb.Helper()
	return chart.Scan(tb.Context(), bytes.NewReader(archive), int64(len(archive)))
}

// wantRefusal wants an *InvalidManifestError with words in it.
func wantRefusal(tb testing.TB, err error, words string) {
	tb.Helper()
	invalid := new(repository.InvalidManifestError)
	if !errors.As(err, &invalid) || !strings.Contains(invalid.Reason, words) {
		tb.Errorf("error %v, want a refusal with %q", err, words)
	}
}

// The archives were packaged by those versions of helm: a new chart of helm create with subcharts, one of which was a
// directory in charts/, the other an archive.
func TestScanTakesWhatHelmPackages(t *testing.T) {
	want := chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.2.3+build.7", AppVersion: "1.10", Type: "application"}
	for _, name := range []string{"helm-v3.17", "helm-v3", "helm-v4"} {
		archive, err := os.ReadFile("testdata/" + name + ".tgz")
		if err != nil {
			t.Fatal(err)
		}
		got, err := scan(t, archive)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func entry(h tar.Header) charttest.Entry { return charttest.Entry{Header: h} }

func directory(name string) charttest.Entry {
	return entry(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755})
}

func TestScanTakes(t *testing.T) {
	long := "web/" + strings.Repeat("directory/", 60) + "file.yaml"
	for name, archive := range map[string][]byte{
		"directories":             charttest.Archive(directory("web/"), webFile, directory("web/templates/")),
		"the root is the folder":  charttest.Archive(directory("./"), charttest.File("./Chart.yaml", webYAML), charttest.File("./a/b", "")),
		"a comment of git":        charttest.Archive(entry(tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": strings.Repeat("c", 40)}}), webFile),
		"long paths":              charttest.Archive(webFile, charttest.File(long, "x")),
		"long paths of GNU":       charttest.Archive(webFile, charttest.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: long, Size: 1, Format: tar.FormatGNU}, Content: "x"}),
		"other alphabets":         charttest.Archive(webFile, charttest.File("web/文書.md", "x")),
		"other Chart.yaml":        charttest.Archive(webFile, charttest.File("web/charts/sub/Chart.yaml", "x"), charttest.File("web/chart.yaml", "x")),
		"a dependency twice":      charttest.Archive(webFile, charttest.File("web/charts/sub/Chart.yaml", "1"), charttest.File("web/charts/sub/Chart.yaml", "2")),
		"an archive in it":        charttest.Archive(webFile, charttest.File("web/charts/sub-1.tgz", string(charttest.Archive(webFile)))),
		"zeros behind the end":    charttest.Zip(append(charttest.Tar(webFile), make([]byte, 10<<10)...)),
		"no end":                  charttest.Zip(bytes.TrimRight(charttest.Tar(webFile, charttest.File("web/z", strings.Repeat("z", 512))), "\x00")),
		"something that repeats":  charttest.Archive(webFile, charttest.File("web/values.yaml", strings.Repeat("a: b\n", 100_000))),
		"as many files as can be": charttest.Archive(manyFiles(9_999)...),
	} {
		if got, err := scan(t, archive); err != nil || got.Name != "web" || got.Version != "1.2.3" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func manyFiles(n int) []charttest.Entry {
	all := []charttest.Entry{webFile}
	for i := range n {
		all = append(all, charttest.File(fmt.Sprintf("web/%d", i), fmt.Sprint(i*7919)))
	}
	return all
}

func TestScanRefuses(t *testing.T) {
	file := func(name string) []byte { return charttest.Archive(webFile, charttest.File(name, "x")) }
	odd := func(h tar.Header) []byte { return charttest.Archive(webFile, entry(h)) }
	good := charttest.Archive(webFile)
	for name, c := range map[string]struct {
		archive []byte
		words   string
	}{
		"nothing":                   {nil, "gzip"},
		"what is not gzip":          {[]byte("apiVersion: v2\n"), "gzip"},
		"what is not tar":           {charttest.Zip([]byte(strings.Repeat("not a tar ", 100))), "damaged"},
		"a cut":                     {good[:len(good)-9], "damaged"},
		"a wrong checksum":          {append(append([]byte{}, good[:len(good)-8]...), 1, 2, 3, 4, 5, 6, 7, 8), "damaged"},
		"no Chart.yaml":             {charttest.Archive(charttest.File("web/values.yaml", "")), "no Chart.yaml"},
		"an empty archive":          {charttest.Archive(), "no Chart.yaml"},
		"a Chart.yaml too deep":     {charttest.Archive(charttest.File("./web/Chart.yaml", webYAML)), "no Chart.yaml"},
		"a link as Chart.yaml":      {charttest.Archive(entry(tar.Header{Typeflag: tar.TypeSymlink, Name: "web/Chart.yaml", Linkname: "/etc/passwd"})), "neither a file nor"},
		"two Chart.yaml":            {charttest.Archive(webFile, webFile), "twice"},
		"a large Chart.yaml":        {charttest.Archive(charttest.File("web/Chart.yaml", webYAML+strings.Repeat("#", 1<<20))), "at most 1048576"},
		"two roots":                 {file("other/x"), "more than one directory"},
		"a file at the root":        {file("x"), "outside of its directory"},
		"only a Chart.yaml":         {charttest.Archive(charttest.File("Chart.yaml", webYAML)), "outside of its directory"},
		"an absolute path":          {file("/web/x"), "not plain"},
		"a path above":              {file("web/../../x"), "not plain"},
		"another spelling":          {file("web/./Chart.yaml"), "not plain"},
		"a doubled slash":           {file("web//Chart.yaml"), "not plain"},
		"the parent as root":        {charttest.Archive(charttest.File("../Chart.yaml", webYAML)), "not plain"},
		"a backslash":               {file(`web/..\..\x`), "character"},
		"a drive":                   {file("web/c:/x"), "not plain"},
		"a drive as root":           {charttest.Archive(charttest.File("c:/Chart.yaml", webYAML)), "not plain"},
		"an escape for a terminal":  {file("web/\x1b[2J"), "character"},
		"a line break":              {file("web/a\nb"), "character"},
		"what is not UTF-8":         {file("web/\xff"), "character"},
		"a path too long":           {file("web/" + strings.Repeat("a/", 600) + "x"), "path of more than"},
		"a symlink":                 {odd(tar.Header{Typeflag: tar.TypeSymlink, Name: "web/x", Linkname: "../../etc"}), "neither a file nor"},
		"a hard link":               {odd(tar.Header{Typeflag: tar.TypeLink, Name: "web/x", Linkname: "web/Chart.yaml"}), "neither a file nor"},
		"a device":                  {odd(tar.Header{Typeflag: tar.TypeBlock, Name: "web/x"}), "neither a file nor"},
		"a terminal":                {odd(tar.Header{Typeflag: tar.TypeChar, Name: "web/x"}), "neither a file nor"},
		"a pipe":                    {odd(tar.Header{Typeflag: tar.TypeFifo, Name: "web/x"}), "neither a file nor"},
		"a contiguous file":         {odd(tar.Header{Typeflag: tar.TypeCont, Name: "web/x"}), "neither a file nor"},
		"a sparse file of GNU":      {charttest.Zip(withType(charttest.Tar(webFile, charttest.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: "web/x", Format: tar.FormatGNU}}), tar.TypeGNUSparse)), "neither a file nor"},
		"a sparse file of PAX":      {sparse(t), "neither a file nor"},
		"a directory by mode alone": {odd(tar.Header{Typeflag: tar.TypeReg, Name: "web/x", Mode: 0o040755}), "neither a file nor"},
		"a global path":             {charttest.Archive(entry(tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"path": "web/Chart.yaml"}}), webFile), "global header"},
		"too many files":            {charttest.Archive(manyFiles(10_000)...), "more than 10000 files"},
		"a bomb":                    {charttest.Archive(webFile, charttest.File("web/zeros", strings.Repeat("\x00", 20<<20))), "too large"},
		"a small bomb":              {charttest.Archive(webFile, charttest.File("web/zeros", strings.Repeat("\x00", 2<<20))), "too large"},
		"a bomb behind the end":     {charttest.Zip(append(charttest.Tar(webFile), make([]byte, 2<<20)...)), "too large"},
		"a long name":               {charttest.Archive(webFile, charttest.File("web/"+strings.Repeat("n", 100<<10), "")), "KiB of headers"},
		"a long extended header":    {charttest.Archive(webFile, entry(tar.Header{Typeflag: tar.TypeReg, Name: "web/x", PAXRecords: map[string]string{"CHARTROOM.x": strings.Repeat("x", 17<<10)}})), "KiB of headers"},
		"many extended headers":     {charttest.Zip(append(bytes.Repeat(extendedHeader(t), 20), charttest.Tar(webFile)...)), "KiB of headers"},
		"data behind the end":       {charttest.Zip(append(charttest.Tar(webFile), "more"...)), "data behind its end"},
		"two archives":              {charttest.Zip(append(charttest.Tar(webFile), charttest.Tar(webFile)...)), "data behind its end"},
		"two gzip members":          {append(append([]byte{}, good...), charttest.Zip([]byte("more"))...), "end of its gzip stream"},
		"a tail":                    {append(append([]byte{}, good...), "tail"...), "end of its gzip stream"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := scan(t, c.archive)
			wantRefusal(t, err, c.words)
			if got != (chart.Metadata{}) {
				t.Errorf("it is refused as well as read: %+v", got)
			}
		})
	}
}

// withType sets the type of the second entry of an archive.
func withType(archive []byte, flag byte) []byte {
	header := archive[1024:1536]
	header[156] = flag
	sum := 0
	copy(header[148:156], "        ")
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return archive
}

// sparse is an archive with a file of PAX's sparse format 0.1, which archive/tar reads but does not write.
func sparse(t *testing.T) []byte {
	t.Helper()
	archive := charttest.Tar(webFile, entry(tar.Header{Typeflag: tar.TypeReg, Name: "web/x", PAXRecords: map[string]string{
		"XXX.sparse.major": "0", "XXX.sparse.minor": "1", "XXX.sparse.numblocks": "0", "XXX.sparse.map": "", "XXX.sparse.size": "5", "XXX.sparse.name": "web/x",
	}}))
	return charttest.Zip(bytes.ReplaceAll(archive, []byte("XXX.sparse"), []byte("GNU.sparse")))
}

// extendedHeader is one that no entry follows.
func extendedHeader(t *testing.T) []byte {
	t.Helper()
	archive := charttest.Tar(entry(tar.Header{Typeflag: tar.TypeReg, Name: "web/x", PAXRecords: map[string]string{"CHARTROOM.x": strings.Repeat("x", 600)}}))
	return archive[:512+1024]
}

// endless is a gzip stream that goes on for as long as it is read, and counts.
type endless struct {
	io.Reader
	read int64
}

func (e *endless) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	e.read += int64(n)
	return n, err
}

// Whatever an archive holds, memory does not grow with it.
func TestScanTakesLittleMemory(t *testing.T) {
	for name, archive := range map[string][]byte{
		"large file":           charttest.Archive(webFile, charttest.File("web/x", strings.Repeat("incompressible? no", 50_000))),
		"long names":           charttest.Zip(bytes.Repeat(extendedHeader(t), 60_000)),
		"names of a megabyte":  charttest.Archive(webFile, charttest.File("web/"+strings.Repeat("n", 900<<10), "")),
		"headers of many keys": charttest.Archive(webFile, entry(tar.Header{Typeflag: tar.TypeReg, Name: "web/x", PAXRecords: manyKeys()})),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _ = scan(t, archive)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, got)
		}
	}
}

func manyKeys() map[string]string {
	m := map[string]string{}
	for i := range 40_000 {
		m[fmt.Sprintf("CHARTROOM.%d", i)] = "x"
	}
	return m
}

// Of a bomb no more is read than what it takes to know.
func TestScanStopsEarly(t *testing.T) {
	bomb := charttest.Archive(webFile, charttest.File("web/zeros", strings.Repeat("\x00", 200<<20)))
	source := &endless{Reader: bytes.NewReader(bomb)}
	_, err := chart.Scan(t.Context(), source, 1000)
	wantRefusal(t, err, "too large")
	if source.read > int64(len(bomb))/10 {
		t.Errorf("%d of %d bytes were read", source.read, len(bomb))
	}
}

func TestScanPassesOnWhatStorageSays(t *testing.T) {
	archive := charttest.New("web", "1.0.0", 200_000).Content
	failure := errors.New("the disk is gone")
	source := io.MultiReader(bytes.NewReader(archive[:100_000]), iotest.ErrReader(failure))
	if _, err := chart.Scan(t.Context(), source, int64(len(archive))); !errors.Is(err, failure) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := chart.Scan(ctx, bytes.NewReader(archive), int64(len(archive))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := chart.Scan(t.Context(), iotest.OneByteReader(bytes.NewReader(archive)), int64(len(archive))); err != nil {
		t.Error(err)
	}
}

func FuzzScan(f *testing.F) {
	f.Add(charttest.Archive(webFile), false)
	f.Add(charttest.Tar(webFile), true)
	f.Add(charttest.Tar(webFile, entry(tar.Header{Typeflag: tar.TypeSymlink, Name: "web/x", Linkname: "y"})), true)
	f.Add(charttest.Tar(webFile, entry(tar.Header{Typeflag: tar.TypeReg, Name: "web/x", PAXRecords: map[string]string{"CHARTROOM.x": "y"}})), true)
	// Where the content is to be compressed, what changes is the archive itself.
	f.Fuzz(func(t *testing.T, content []byte, compress bool) {
		if compress {
			content = charttest.Zip(content)
		}
		got, err := scan(t, content)
		if invalid := new(repository.InvalidManifestError); err != nil && !errors.As(err, &invalid) {
			t.Errorf("error %v is no refusal", err)
		}
		if err == nil && (got.Name == "" || got.Version == "" || got.APIVersion == "") {
			t.Errorf("it is read as %+v", got)
		}
	})
}

func BenchmarkScan(b *testing.B) {
	for _, size := range []int{4 << 10, 50 << 10} {
		archive := charttest.New("web", "1.0.0", size).Content
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := scan(b, archive); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

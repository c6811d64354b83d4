//nolint:thelper // These are the tests themselves: a failure is to name their own line.
package buckettest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/google/go-cmp/cmp"
)

// Characters below "/" in the order of bytes (+ - . %) are what a listing by directories gets wrong.
var listKeys = []string{
	"a", "a-b", "a.b/c", "a+b/c/d", "a%/x", "aa/b/c/d/e", "aa/b/c-d", "aa/b.c", "aa/b0",
	"b/1", "b/10", "b/2", "b/a/1", "b/a-1", "c/d/e/f/g", "charts/x/tags/1.0.0", "charts/x/tags/1.0.0-rc.1",
	"charts/x+y/tags/1.0.0", "charts/x-y/tags/1.0.0", "layout.json", "z/z/z",
}

func testList(t *testing.T, b bucket.Bucket) {
	keys := slices.Clone(listKeys)
	slices.Sort(keys)
	for _, k := range keys {
		mustPut(t, b, k, k)
	}
	prefixes := []string{"", "a", "a/", "aa/", "aa/b", "aa/b/c/", "b/", "b/1", "b", "charts/", "charts/x", "charts/x/tags/", "no", "no/", "z/z/z", "z/z/z/", "../", "/", "a//", "\x00"}
	afters := append([]string{"", "a/", "aa/b/", "aa/b/c", "aa/b/c/zzz", "b/a/", "b/a/1", "charts/x+", "zz", "\xff"}, keys...)
	for _, prefix := range prefixes {
		for _, after := range afters {
			for _, delimiter := range []string{"", "/"} {
				for _, limit := range []int{0, 1, 3} {
					o := bucket.ListOptions{Prefix: prefix, StartAfter: after, Delimiter: delimiter, Limit: limit}
					wantListing(t, b, o, expectedNames(keys, o))
				}
			}
		}
	}
}

// expectedNames is what the listing has, all pages together.
func expectedNames(keys []string, o bucket.ListOptions) []string {
	var names []string
	for _, k := range keys {
		rest, ok := strings.CutPrefix(k, o.Prefix)
		if !ok {
			continue
		}
		if i := strings.Index(rest, "/"); o.Delimiter != "" && i >= 0 {
			k = o.Prefix + rest[:i+1]
		}
		if k > o.StartAfter && (len(names) == 0 || names[len(names)-1] != k) {
			names = append(names, k)
		}
	}
	return names
}

func wantListing(t *testing.T, b bucket.Bucket, o bucket.ListOptions, want []string) {
	t.Helper()
	asked := o
	var got []string
	for pages := 0; ; pages++ {
		p, err := b.List(t.Context(), o)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		var names []string
		for _, i := range p.Objects {
			names = append(names, i.Key)
			if !o.NamesOnly && (i.ETag == "" || i.Modified.IsZero()) {
				t.Fatalf("%+v: incomplete %+v", o, i)
			}
		}
		if !slices.IsSorted(names) || !slices.IsSorted(p.Prefixes) {
			t.Fatalf("%+v: not sorted: %+v", o, p)
		}
		names = append(names, p.Prefixes...)
		if o.Limit > 0 && len(names) > o.Limit {
			t.Fatalf("%+v: %d entries on a page", o, len(names))
		}
		slices.Sort(names)
		got = append(got, names...)
		if p.Next == "" {
			break
		}
		if len(names) == 0 || pages > len(want) {
			t.Fatalf("%+v: the listing does not advance", o)
		}
		o.StartAfter = p.Next
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%+v (-want +got):\n%s", asked, diff)
	}
}

func testListMany(t *testing.T, b bucket.Bucket) {
	const count = 2100
	var keys []string
	for i := range count {
		keys = append(keys, fmt.Sprintf("many/%d/x", i), fmt.Sprintf("many/%d-0", i))
	}
	slices.Sort(keys)
	keys = keys[:count]
	var wait sync.WaitGroup
	const writers = 8
	for w := range writers {
		wait.Go(func() {
			for i := w; i < len(keys); i += writers {
				if _, err := put(t.Context(), b, keys[i], keys[i], bucket.Condition{Absent: true}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	for _, o := range []bucket.ListOptions{{}, {Prefix: "many/", Delimiter: "/"}, {Prefix: "many/1", Limit: 700}, {Prefix: "many/", Limit: 5000}} {
		wantListing(t, b, o, expectedNames(keys, o))
	}
	p, err := b.List(t.Context(), bucket.ListOptions{Limit: 5000})
	if err != nil || len(p.Objects) != 1000 || p.Next != keys[999] || p.Objects[3].Size != int64(len(keys[3])) {
		t.Fatalf("the first page has %d objects and goes on behind %q, %v", len(p.Objects), p.Next, err)
	}
}

func testListAfterDelete(t *testing.T, b bucket.Bucket) {
	for _, k := range []string{"a/b/c/d", "a/b/e", "f/g/h"} {
		mustPut(t, b, k, k)
	}
	for _, k := range []string{"a/b/c/d", "f/g/h"} {
		if err := b.Delete(t.Context(), k, bucket.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	wantListing(t, b, bucket.ListOptions{Delimiter: "/"}, []string{"a/"})
	wantListing(t, b, bucket.ListOptions{Prefix: "a/b/", Delimiter: "/"}, []string{"a/b/e"})
	// A name that was a directory may become an object.
	mustPut(t, b, "f/g", "x")
	wantListing(t, b, bucket.ListOptions{}, []string{"a/b/e", "f/g"})
}

// testListNames checks that a listing of names has the same names, whatever else it leaves out.
func testListNames(t *testing.T, b bucket.Bucket) {
	keys := slices.Clone(listKeys)
	slices.Sort(keys)
	for _, k := range keys {
		mustPut(t, b, k, k)
	}
	for _, prefix := range []string{"", "a", "b/", "charts/x"} {
		for _, delimiter := range []string{"", "/"} {
			for _, limit := range []int{0, 1, 3} {
				o := bucket.ListOptions{Prefix: prefix, StartAfter: "a.b/c", Delimiter: delimiter, Limit: limit, NamesOnly: true}
				wantListing(t, b, o, expectedNames(keys, o))
			}
		}
	}
}

// testVersion is for a Bucket that tells versions, now or later.
func testVersion(t *testing.T, b bucket.Bucket) {
	versioner, ok := b.(bucket.Versioner)
	if !ok {
		return
	}
	version := func(prefix string) string {
		v, err := versioner.Version(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := version("none/"); v != "" {
		t.Errorf("what is not there has the version %q", v)
	}
	if _, err := versioner.Version(t.Context(), "../"); !errors.Is(err, bucket.ErrKey) {
		t.Errorf("a prefix that is none: %v", err)
	}
	seen := map[string]string{}
	note := func(after string) {
		v := version("v/")
		if before := seen[v]; v != "" && before != "" {
			t.Errorf("after %s the version is what it was after %s", after, before)
		}
		seen[v] = after
	}
	first := mustPut(t, b, "v/a", "1")
	note("a put")
	mustPut(t, b, "v/b", "1")
	note("another put")
	if _, err := put(t.Context(), b, "v/a", "1", bucket.Condition{ETag: first.ETag}); err != nil {
		t.Fatal(err)
	}
	note("a replacement")
	if err := b.Delete(t.Context(), "v/a", bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	note("a delete")
	if err := b.Delete(t.Context(), "v/b", bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	if v := version("v/"); v != "" {
		t.Errorf("where nothing is left the version is %q", v)
	}
}

package repository_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
	"github.com/google/go-cmp/cmp"
)

// narrow is a bucket whose pages are small.
type narrow struct {
	bucket.Bucket
	limit int
}

func (n narrow) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	if o.Limit == 0 || o.Limit > n.limit {
		o.Limit = n.limit
	}
	return n.Bucket.List(ctx, o)
}

// randomNames are names of few different words, so that many begin alike.
func randomNames(random *rand.Rand, n int) []string {
	words := []string{"a", "a0", "a_b", "b", "web", "web2", "0"}
	names := map[string]bool{}
	for range n {
		name := words[random.IntN(len(words))]
		for range random.IntN(4) {
			name += []string{"-", ".", "/", "--"}[random.IntN(4)] + words[random.IntN(len(words))]
		}
		names[name] = true
	}
	var all []string
	for name := range names {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

func TestRepositoriesAreInTheOrderOfTheirNames(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	b := newBucket(t)
	plain := openStore(t, b, repository.Options{})
	all := randomNames(random, 150)
	for _, name := range all {
		putObject(t, b, "charts/"+strings.ReplaceAll(name, "/", "+")+"/manifests/sha256/x", "x")
	}
	got, more, err := plain.Repositories(t.Context(), 0, "")
	ok(t, err)
	if diff := cmp.Diff(all, got); diff != "" || more {
		t.Fatalf("more %v, -want +got:\n%s", more, diff)
	}
	for _, limit := range []int{1, 2, 3, 7, 50} {
		s := openStore(t, narrow{b, limit}, repository.Options{})
		for range 60 {
			last := randomLast(random, all)
			n := random.IntN(20)
			at, found := slices.BinarySearch(all, last)
			if found {
				at++
			}
			wanted := all[at:]
			wantMore := n > 0 && len(wanted) > n
			if wantMore {
				wanted = wanted[:n]
			}
			got, more, err := s.Repositories(t.Context(), n, last)
			ok(t, err)
			if diff := cmp.Diff(append([]string{}, wanted...), append([]string{}, got...)); diff != "" || more != wantMore {
				t.Fatalf("%d behind %q in pages of %d: more is %v, want %v; -want +got:\n%s", n, last, limit, more, wantMore, diff)
			}
		}
	}
}

func randomLast(random *rand.Rand, all []string) string {
	last := all[random.IntN(len(all))]
	switch random.IntN(6) {
	case 0:
		return ""
	case 1:
		return last[:random.IntN(len(last))]
	case 2:
		return last + []string{"-", "/", "~", "\x00", "A", "é", ".", "0"}[random.IntN(8)]
	}
	return last
}

func TestCatalogHasWhatMayBeReadAndHasManifests(t *testing.T) {
	b := newBucket(t)
	s := openStore(t, b, repository.Options{})
	var all []string
	readable := map[string]bool{}
	for i := range 100 {
		name := fmt.Sprintf("team/c%02d", i)
		readable[name] = i%4 != 3
		key := "charts/" + strings.ReplaceAll(name, "/", "+")
		switch i % 4 {
		case 0:
			putObject(t, b, key+"/blobs/sha256/x", "x")
		case 1:
			putObject(t, b, key+"/tags/x", "x")
		case 2:
			all = append(all, name)
			fallthrough
		case 3:
			putObject(t, b, key+"/manifests/sha512/x", "x")
		}
	}
	may := func(name string) bool { return readable[name] }
	for _, n := range []int{1, 7, 24, 25, 100} {
		var got []string
		for more, last := true, ""; more; last = got[len(got)-1] {
			var page []string
			var err error
			page, more, err = s.Catalog(t.Context(), n, last, may)
			ok(t, err)
			if got = append(got, page...); len(page) > n || more && len(page) < n {
				t.Fatalf("a page of %d has %d", n, len(page))
			}
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	}
	if got, more, err := s.Catalog(t.Context(), 5, "team/c98", may); len(got) != 0 || more || err != nil {
		t.Fatalf("behind the last: %v %v %v", got, more, err)
	}
}

package inventory_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/inventory"
)

// listed are the versions in a part of a list, and how many there are in all.
func (r *replica) listed(may func(string) bool, from, to int) string {
	some, all := r.Newest(may, from, to)
	var ids []string
	for _, l := range some {
		ids = append(ids, l.Name+":"+l.Tag)
	}
	return fmt.Sprint(strings.Join(ids, " "), " of ", all)
}

func TestTheNewestAreListed(t *testing.T) {
	t.Parallel()
	r := built(t, newBucket(t), nil)
	if got := r.listed(nil, 0, 10); got != " of 0" {
		t.Errorf("of nothing %s are listed", got)
	}
	for n, name := range []string{"web", "team/web", "app", "web"} {
		r.push(name, fmt.Sprintf("1.%d.0", 9-n), nil)
	}
	r.tag("web", "image", []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[],"config":`+r.blob("web", "text/plain", "x")+"}"))
	r.untilTags("web", "1.9.0 1.6.0 (image)")
	r.until("all are known", func() bool { return r.Totals(nil).Versions == 4 })
	web := func(name string) bool { return strings.HasSuffix(name, "web") }
	for _, test := range []struct {
		may      func(string) bool
		from, to int
		want     string
	}{
		{nil, 0, 10, "web:1.6.0 app:1.7.0 team/web:1.8.0 web:1.9.0 of 4"},
		{nil, 1, 3, "app:1.7.0 team/web:1.8.0 of 4"},
		{nil, 4, 8, " of 4"},
		{web, 1, 2, "team/web:1.8.0 of 3"},
		{func(string) bool { return false }, 0, 10, " of 0"},
	} {
		if got := r.listed(test.may, test.from, test.to); got != test.want {
			t.Errorf("from %d to %d %s are listed, want %s", test.from, test.to, got, test.want)
		}
	}
	some, all := r.Highest("web", 1, 5)
	if len(some) != 1 || some[0].Name != "web" || some[0].Tag != "1.6.0" || all != 2 {
		t.Errorf("of web %+v of %d are listed", some, all)
	}
	if some, all := r.Highest("none", 0, 5); some != nil || all != 0 {
		t.Errorf("of nothing %+v of %d are listed", some, all)
	}
	// What is changed is seen the next time.
	r.push("app", "2.0.0", nil)
	r.untilTags("app", "2.0.0 1.7.0")
	if got := r.listed(nil, 0, 1); got != "app:2.0.0 of 5" {
		t.Errorf("then %s are listed", got)
	}
	r.delete("app", "2.0.0")
	r.untilTags("app", "1.7.0")
	if got := r.listed(nil, 0, 1); got != "web:1.6.0 of 4" {
		t.Errorf("at last %s are listed", got)
	}
}

// A page of 100,000 versions: what it takes must not grow with how many there are.
func BenchmarkNewest(b *testing.B) {
	i := inventory.New(inventory.Options{})
	i.Fill(2000, 50)
	for what, may := range map[string]func(string) bool{"all": nil, "some": func(chart string) bool { return strings.HasSuffix(chart, "7") }} {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if some, _ := i.Newest(may, 0, 30); len(some) != 30 {
					b.Fatalf("%d are listed", len(some))
				}
			}
		})
	}
}

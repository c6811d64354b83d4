package web_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/inventory"
	"github.com/chartroom-dev/chartroom/registryserver/web"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

// many is an inventory of very much.
type many struct {
	inventory.Reader
	charts   []inventory.Chart
	versions []inventory.Version
}

func (m *many) Charts(may func(string) bool) []inventory.Chart {
	all := make([]inventory.Chart, 0, len(m.charts))
	for _, c := range m.charts {
		if may == nil || may(c.Name) {
			all = append(all, c)
		}
	}
	return all
}

func (m *many) Versions(string) []inventory.Version {
	return append([]inventory.Version(nil), m.versions...)
}

func BenchmarkPages(b *testing.B) {
	m := &many{}
	s := newSite(b, wire.Public, func(o *web.Options) {
		m.Reader = o.Inventory
		o.Inventory = m
	})
	s.push("web", webChart("web", "1.0.0", nil), "1.0.0")
	at := time.Now()
	for i := range 10_000 {
		v := inventory.Version{Tag: "1.0.0", Chart: true, Description: "What the chart is for.", PushedAt: at.Add(time.Duration(i*7919%10_000) * time.Second)}
		m.charts = append(m.charts, inventory.Chart{Name: fmt.Sprintf("team-%d/chart-%05d", i%20, i), Latest: v, Versions: 3, LastPushed: v.PushedAt})
	}
	for i := range 5000 {
		m.versions = append(m.versions, inventory.Version{Tag: fmt.Sprintf("1.%d.0", 5000-i), Chart: true, PushedAt: at})
	}
	for name, path := range map[string]string{
		"10000 charts": "/acme/charts", "10000 charts by time": "/acme/charts?sort=updated", "10000 charts searched": "/acme/charts?q=chart-09", "5000 versions": versionPath("web", "1.0.0", "versions"), "a version": versionPath("web", "1.0.0", ""),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.browser().page(path)
				s.seen = nil
			}
		})
	}
}

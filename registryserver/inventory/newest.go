package inventory

import (
	"cmp"
	"slices"
	"strings"
)

// placed is a version in the order of all. It keeps no content in memory that is there no more.
type placed struct {
	of     *repo
	record *record
}

// Highest implements Reader.
func (i *Inventory) Highest(name string, from, to int) (some []Listed, all int) {
	c := i.content(name)
	if c == nil {
		return nil, 0
	}
	for _, r := range c.records[min(c.charts, from):min(c.charts, to)] {
		some = append(some, Listed{c.name, i.version(c, r)})
	}
	return some, c.charts
}

// Newest implements Reader.
func (i *Inventory) Newest(may func(chart string) bool, from, to int) (some []Listed, all int) {
	order := i.byPush()
	var let map[*repo]bool
	if may != nil {
		let = map[*repo]bool{}
		for _, r := range i.sorted() {
			if may(r.content.Load().name) {
				let[r] = true
			}
		}
	}
	if len(let) == 0 && may != nil {
		return nil, 0
	}
	for _, p := range order {
		if let != nil && !let[p.of] {
			continue
		}
		if all >= from && all < to {
			c := p.of.content.Load()
			some = append(some, Listed{c.name, i.version(c, p.record)})
		}
		all++
	}
	return some, all
}

// byPush are all versions of Helm charts, what was pushed last first. Nobody changes the slice.
func (i *Inventory) byPush() []placed {
	// Those who ask at the same time share one.
	i.ordering.Lock()
	defer i.ordering.Unlock()
	i.mu.RLock()
	order, revision := i.newest, i.revision
	i.mu.RUnlock()
	if order != nil {
		return order
	}
	repos, count := i.sorted(), 0
	for _, r := range repos {
		count += r.content.Load().charts
	}
	order = make([]placed, 0, count)
	for _, r := range repos {
		c := r.content.Load()
		for _, record := range c.records[:c.charts] {
			order = append(order, placed{r, record})
		}
	}
	slices.SortFunc(order, func(a, b placed) int {
		if a.record.pushedAt != b.record.pushedAt {
			return cmp.Compare(b.record.pushedAt, a.record.pushedAt)
		}
		return cmp.Or(strings.Compare(a.of.content.Load().name, b.of.content.Load().name), strings.Compare(a.record.tag(), b.record.tag()))
	})
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.revision == revision {
		i.newest = order
	}
	return order
}

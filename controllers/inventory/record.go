package inventory

import (
	"reflect"
	"slices"
	"time"

	"github.com/chartroom-dev/chartroom/controllers/internal/reports"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// gathering is how long a change waits for those that belong to it, and gatheringFirst how long the first answer since
	// the operator began waits for those of other pods, which may have seen more.
	gathering      = 100 * time.Millisecond
	gatheringFirst = 500 * time.Millisecond
	// downloadsPause is the least time until downloads are told of that come with no other change: each is a write to the
	// API server.
	downloadsPause = 30 * time.Second
	// eventPause is the least time between two events of one registry.
	eventPause = 10 * time.Second
)

// record is what was told of one registry.
type record struct {
	// published is what was recorded last, at an instant; nil before the first.
	published   *reports.Inventory
	publishedAt time.Time
	// changed is since when there is something else to say; zero when there is not.
	changed time.Time
	// announced is what the last event told of, at an instant; nil before anything was known.
	announced   *wire.Inventory
	announcedAt time.Time
}

// publish says whether what a registry holds is to be recorded now, or when it will be; zero is never.
func (r *record) publish(said reports.Inventory, now time.Time) (bool, time.Time) {
	if r.published != nil && reflect.DeepEqual(*r.published, said) {
		r.changed = time.Time{}
		return false, time.Time{}
	}
	if r.changed.IsZero() {
		r.changed = now
	}
	due := r.changed.Add(gathering)
	switch {
	case r.published == nil:
		due = r.changed.Add(gatheringFirst)
	case onlyDownloads(*r.published, said):
		due = r.publishedAt.Add(downloadsPause)
	}
	if now.Before(due) {
		return false, due
	}
	r.published, r.publishedAt, r.changed = &said, now, time.Time{}
	return true, time.Time{}
}

// onlyDownloads says whether nothing but numbers of downloads makes a difference.
func onlyDownloads(a, b reports.Inventory) bool {
	for _, i := range []*reports.Inventory{&a, &b} {
		if i.Known != nil {
			known := *i.Known
			known.Totals.Downloads = 0
			known.Charts = slices.Clone(known.Charts)
			for n := range known.Charts {
				known.Charts[n].Downloads = 0
			}
			i.Known = &known
		}
	}
	return reflect.DeepEqual(a, b)
}

// announce returns the note of an event that is due, or when one will be; zero is never. What was there when the operator
// began is no event.
func (r *record) announce(now time.Time) (string, time.Time) {
	if r.published == nil || r.published.Known == nil || r.published.Known == r.announced {
		return "", time.Time{}
	}
	var found []string
	if r.announced != nil {
		found = changes(*r.announced, *r.published.Known)
	}
	if due := r.announcedAt.Add(eventPause); len(found) > 0 {
		if now.Before(due) {
			return "", due
		}
		r.announcedAt = now
	}
	r.announced = r.published.Known
	return note(found), time.Time{}
}

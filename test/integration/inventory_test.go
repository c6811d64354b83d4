package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
	"github.com/chartroom-dev/chartroom/test/integration/environment"
)

// shelf is what a pod holds, and says on its admin port when it changes. Several pods may have one.
type shelf struct {
	mu        sync.Mutex
	inventory wire.Inventory
	revision  int
	changed   chan struct{}
	closed    bool
	// old plays a program that knows of no inventories.
	old bool
	// waiting are the questions that wait for a change, full is how many asked for everything.
	waiting, full int
}

func newShelf() *shelf { return &shelf{revision: 1, changed: make(chan struct{})} }

func (s *shelf) set(change func(*wire.Inventory)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inventory.Charts = slices.Clone(s.inventory.Charts)
	change(&s.inventory)
	s.revision++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *shelf) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.set(func(*wire.Inventory) {})
}

func (s *shelf) asked() (waiting, full int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting, s.full
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := r.Header.Get("If-None-Match")
	if known == "" {
		s.full++
	}
	for end := time.After(wire.InventoryWait); known == fmt.Sprintf("%q", fmt.Sprint(s.revision)) && !s.closed; {
		changed := s.changed
		s.waiting++
		s.mu.Unlock()
		over := false
		select {
		case <-r.Context().Done():
			over = true
		case <-end:
			over = true
		case <-changed:
		}
		s.mu.Lock()
		s.waiting--
		if over {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	if s.old {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprint(s.revision)))
	_ = json.NewEncoder(w).Encode(s.inventory)
}

// push adds a version of a chart, as the process with a name does.
func (s *shelf) push(process, chart, version string) {
	s.set(func(i *wire.Inventory) {
		at := time.Now().UTC()
		clock := map[string]uint64{process: 1}
		for p, n := range i.Clock {
			clock[p] += n
		}
		i.Clock = clock
		i.Totals.Versions++
		i.Totals.SizeBytes += 2048
		i.Totals.LastPushed = &at
		n := slices.IndexFunc(i.Charts, func(c wire.InventoryChart) bool { return c.Name == chart })
		if n < 0 {
			n = len(i.Charts)
			i.Charts = append(i.Charts, wire.InventoryChart{Name: chart})
			i.Totals.Charts++
		}
		c := &i.Charts[n]
		c.LatestVersion, c.Digest, c.LastPushed = version, "sha256:"+version, &at
		c.Versions++
		c.SizeBytes += 2048
	})
}

// inventoryOf is what the status says of what a registry holds.
func (c *cluster) inventoryOf(registry *v1alpha1.HelmRegistry) v1alpha1.InventoryStatus {
	c.t.Helper()
	c.get(registry)
	if registry.Status.Inventory == nil {
		return v1alpha1.InventoryStatus{}
	}
	return *registry.Status.Inventory
}

// holds waits until the status says that there are so many versions.
func (c *cluster) holds(registry *v1alpha1.HelmRegistry, versions int64) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("the status says that there are %d versions", versions), func() bool {
		return c.inventoryOf(registry).Versions == versions && registry.Status.Inventory != nil
	})
}

// freshness waits until the condition InventoryFresh has a status and a reason.
func (c *cluster) freshness(registry *v1alpha1.HelmRegistry, status metav1.ConditionStatus, reason string) {
	c.t.Helper()
	c.eventually("InventoryFresh is "+string(status)+", "+reason, func() bool {
		c.get(registry)
		fresh := meta.FindStatusCondition(registry.Status.Conditions, v1alpha1.ConditionInventoryFresh)
		return fresh != nil && fresh.Status == status && fresh.Reason == reason
	})
}

func (c *cluster) notes(registry *v1alpha1.HelmRegistry, reason string) []string {
	c.t.Helper()
	list := &eventsv1.EventList{}
	if err := env.Client.List(c.t.Context(), list, client.InNamespace(registry.Namespace)); err != nil {
		c.t.Fatal(err)
	}
	var notes []string
	for _, e := range list.Items {
		if e.Regarding.UID == registry.UID && e.Reason == reason {
			notes = append(notes, e.Note)
		}
	}
	return notes
}

func TestInventoryOfPods(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	c.freshness(registry, metav1.ConditionTrue, "Fresh")
	if got := c.inventoryOf(registry); got.Charts != 0 || got.Size != "0B" || registry.Status.Charts != nil {
		t.Errorf("an empty registry holds %+v, %+v", got, registry.Status.Charts)
	}
	pod.shelf.push("a", "app", "1.0.0")
	c.holds(registry, 1)
	want := []v1alpha1.ChartStatus{{Name: "app", LatestVersion: "1.0.0", Digest: "sha256:1.0.0", Versions: 1, SizeBytes: 2048, LastPushed: registry.Status.Inventory.LastPushed}}
	if diff := cmp.Diff(want, registry.Status.Charts); diff != "" || registry.Status.Inventory.Size != "2.0KiB" {
		t.Errorf("of %+v (-want +got):\n%s", registry.Status.Inventory, diff)
	}
	c.eventually("there is an event", func() bool {
		return slices.Contains(c.notes(registry, "ChartsChanged"), "The latest version of app is now 1.0.0.")
	})
	pod.shelf.set(func(i *wire.Inventory) {
		i.Clock = map[string]uint64{"a": 2}
		i.Charts, i.Totals = nil, wire.InventoryTotals{}
	})
	c.holds(registry, 0)
	c.eventually("there is an event of the deletion", func() bool {
		return slices.Contains(c.notes(registry, "ChartsChanged"), "The chart app is gone.")
	})
}

// Of several pods the one that has seen most is believed, one that is still building never, and what was known stays when
// they are gone.
func TestInventoryOfSeveralPods(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	first, second := c.startPod("charts-1"), c.startPod("charts-2")
	c.freshness(registry, metav1.ConditionTrue, "Fresh")
	first.shelf.push("a", "app", "1.0.0")
	first.shelf.push("a", "app", "1.1.0")
	c.holds(registry, 2)
	second.shelf.push("a", "app", "1.0.0") // It has heard of one of them.
	second.shelf.set(func(i *wire.Inventory) { i.Totals.SizeBytes = 1 })
	third := c.startPod("charts-3")
	third.shelf.set(func(i *wire.Inventory) { i.Building = true })
	c.eventually("all have answered, and are asked again", func() bool {
		for _, p := range []*pod{first, second, third} {
			if waiting, _ := p.shelf.asked(); waiting != 1 {
				return false
			}
		}
		return true
	})
	c.update(registry, func() { registry.Spec.DisplayName = "x" })
	c.eventually("the status was written", func() bool { c.get(registry); return registry.Status.ObservedGeneration == registry.Generation })
	if got := c.inventoryOf(registry); got.Versions != 2 || got.SizeBytes != 4096 {
		t.Errorf("a pod that is behind, or building, was believed: %+v", got)
	}
	first.finish()
	second.finish()
	c.freshness(registry, metav1.ConditionFalse, "Building")
	third.finish()
	c.freshness(registry, metav1.ConditionFalse, "NoReplicas")
	if got := c.inventoryOf(registry); got.Versions != 2 {
		t.Errorf("without pods it is not known any more: %+v", got)
	}
	fourth := c.startPod("charts-4")
	fourth.shelf.set(func(i *wire.Inventory) {
		*i = wire.Inventory{Clock: map[string]uint64{"a": 3}, Totals: wire.InventoryTotals{Charts: 1, Versions: 5}}
	})
	c.holds(registry, 5)
	c.freshness(registry, metav1.ConditionTrue, "Fresh")
}

func TestInventoryOfAnOldProgram(t *testing.T) {
	c := newCluster(t)
	registry := c.registry(nil)
	c.create(registry)
	pod := c.startPod("charts-1")
	pod.shelf.mu.Lock()
	pod.shelf.old = true
	pod.shelf.mu.Unlock()
	pod.shelf.set(func(*wire.Inventory) {}) // Who waits is answered 404.
	c.freshness(registry, metav1.ConditionFalse, "PodsOutdated")
}

// While the operator is down nothing is lost, and the next one says nothing twice.
func TestInventoryCatchesUp(t *testing.T) {
	c := newCluster(t)
	registry, pod := c.ofOneChart()
	if err := op.stop(); err != nil {
		t.Fatal(err)
	}
	c.eventually("nobody asks the pod any more", func() bool { waiting, _ := pod.shelf.asked(); return waiting == 0 })
	for n := range 10 {
		pod.shelf.push("a", "app", fmt.Sprintf("1.1.%d", n))
	}
	before := c.notes(registry, "ChartsChanged")
	if err := op.start(); err != nil {
		t.Fatal(err)
	}
	c.holds(registry, 11)
	if got := registry.Status.Charts; len(got) != 1 || got[0].LatestVersion != "1.1.9" {
		t.Errorf("the charts are %+v", got)
	}
	pod.shelf.push("a", "app", "1.2.0")
	c.eventually("what happens from now on is an event", func() bool {
		return slices.Contains(c.notes(registry, "ChartsChanged"), "The latest version of app is now 1.2.0.")
	})
	for _, note := range c.notes(registry, "ChartsChanged")[len(before):] {
		if strings.Contains(note, "1.1.") {
			t.Errorf("an event tells of what was there before: %q", note)
		}
	}
}

// ofOneChart is a registry whose status has the one chart that its pod holds.
func (c *cluster) ofOneChart() (*v1alpha1.HelmRegistry, *pod) {
	registry := c.registry(nil)
	c.create(registry)
	p := c.startPod("charts-1")
	p.shelf.push("a", "app", "1.0.0")
	c.holds(registry, 1)
	return registry, p
}

// However many downloads there are, the API server is not written to for each; at rest it is not written to at all.
func TestInventoryIsWrittenSeldom(t *testing.T) {
	c := newCluster(t)
	registry, pod := c.ofOneChart()
	writes := func() int {
		calls, err := env.OperatorCalls()
		if err != nil {
			t.Fatal(err)
		}
		return len(slices.DeleteFunc(calls, func(call environment.Call) bool {
			return call.Namespace != c.namespace || call.Resource != "helmregistries" || call.Subresource != "status"
		}))
	}
	c.settle(writes)
	before := writes()
	for range 20 {
		pod.shelf.set(func(i *wire.Inventory) {
			i.Totals.Downloads++
			i.Charts[0].Downloads++
		})
		c.eventually("the operator has taken the answer", func() bool { waiting, _ := pod.shelf.asked(); return waiting == 1 })
	}
	c.eventually("the downloads are in the status", func() bool { return c.inventoryOf(registry).Downloads == 20 })
	if n := writes() - before; n > 2 {
		t.Errorf("20 downloads were written in %d times", n)
	}
}

// A registry that is deleted is asked no more, and one of its name that comes after it begins with nothing.
func TestInventoryEndsWithTheRegistry(t *testing.T) {
	c := newCluster(t)
	registry, pod := c.ofOneChart()
	c.delete(registry)
	c.eventually("nobody asks the pod any more", func() bool { waiting, _ := pod.shelf.asked(); return waiting == 0 })
	c.eventually("the registry is gone", func() bool { return !c.exists(registry) })
	pod.finish()
	again := c.registry(nil)
	c.create(again)
	c.freshness(again, metav1.ConditionFalse, "NoReplicas")
	if again.Status.Inventory != nil {
		t.Errorf("the next registry begins with %+v", again.Status.Inventory)
	}
}

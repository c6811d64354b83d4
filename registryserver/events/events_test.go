package events_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

func TestWhatHappensIsTold(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	r := newReplica(t, b, nil, told("hook", l)).run()
	r.push("team/web", "1.0.0_build.1", "one")
	r.push("team/web", "1.0.0_build.1", "one") // Nothing new.
	r.push("team/web", "1-dev", "one")
	r.push("team/web", "1-dev", "two")
	r.push("team/web", "sha256-abc.sig", "signature")
	r.delete("team/web", "1-dev")
	repo := r.chart("api")
	if _, err := repo.PutManifest(repository.Copying(t.Context(), "team/web:1.0.0"), "2.0.0", imageType, manifest("one"), "ci"); err != nil {
		t.Fatal(err)
	}
	left := func() []string { return append(keys(t, b, "events/outbox/"), keys(t, b, "events/queue/")...) }
	eventually(t, "all is told, and noted to be", func() bool { return len(l.got()) == 5 && len(left()) == 0 && len(r.state("hook").Deliveries) == 5 })
	r.stop()
	var web []string
	for _, line := range l.lines() {
		if strings.Contains(line, "team/web") {
			web = append(web, line)
		}
	}
	want := []string{"package.created team/web:1.0.0_build.1", "package.created team/web:1-dev", "tag.moved team/web:1-dev", "package.deleted team/web:1-dev"}
	if diff := cmp.Diff(want, web); diff != "" {
		t.Error(diff)
	}
	ids := map[string]bool{}
	for _, g := range l.got() {
		ids[g.event.ID] = true
		d := g.event.Data
		switch g.event.Type {
		case "dev.chartroom.package.copied":
			if d.CopiedFrom != "team/web:1.0.0" || d.Actor != "ci" {
				t.Errorf("the copy is %+v", d)
			}
		case "dev.chartroom.tag.moved":
			if d.Digest != digest.FromBytes(manifest("two")).String() || d.PreviousDigest != digest.FromBytes(manifest("one")).String() {
				t.Errorf("the move is %+v", d)
			}
		case "dev.chartroom.package.deleted":
			if d.Digest != digest.FromBytes(manifest("two")).String() || d.Actor != "somebody" {
				t.Errorf("the delete is %+v", d)
			}
		case "dev.chartroom.package.created":
			if d.Tag == "1.0.0_build.1" && (d.Version != "1.0.0+build.1" || d.Actor != "ci" || d.Chart != "team/web") {
				t.Errorf("the push is %+v", d)
			}
		}
	}
	if len(ids) != 5 {
		t.Errorf("there are %d ids", len(ids))
	}
	if left := left(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	s := r.state("hook")
	if len(s.Deliveries) != 5 || s.Pending != 0 || s.Dead != 0 || s.Problem != "" || s.Deliveries[0].Outcome != events.Delivered || s.Deliveries[0].Response.Status != 200 {
		t.Errorf("the state is %+v", s)
	}
}

// A push writes one object more, and nothing where it changes nothing.
func TestAPushWritesOneObjectMore(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	r := newReplica(t, b, nil, told("hook", l))
	r.push("web", "1.0.0", "one")
	r.push("web", "1.0.0", "one")
	if all := keys(t, b, "events/"); len(all) != 1 || !strings.HasPrefix(all[0], "events/outbox/web/") {
		t.Errorf("there are %v", all)
	}
	// Nobody to tell, nothing to write.
	disabled := told("hook", l)
	disabled.Disabled = true
	other := newBucket(t)
	newReplica(t, other, nil, disabled).push("web", "1.0.0", "one")
	if all := keys(t, other, "events/"); len(all) != 0 {
		t.Errorf("there are %v", all)
	}
}

// Whatever went before the deliverer came: it is told in order, and what never happened is not.
func TestWhatHappenedBeforeIsFoundOut(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	r := newReplica(t, b, nil, told("hook", l))
	r.push("web", "a-dev", "one")
	r.push("web", "a-dev", "two")
	r.push("web", "a-dev", "three")
	r.delete("web", "a-dev")
	r.push("web", "a-dev", "four")
	r.push("web", "1.0.0", "x")
	r.delete("web", "1.0.0")
	// Recorded, and then killed.
	for _, c := range []repository.Change{
		{Repository: "web", Tag: "9.9.9", Digest: digest.FromString("never")},
		{Repository: "web", Tag: "a-dev", Digest: digest.FromString("never"), Before: digest.FromBytes(manifest("four"))},
	} {
		if _, _, err := r.Record(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	_, mark, err := r.chart("web").Standing(t.Context(), "a-dev")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Record(t.Context(), repository.Change{Repository: "web", Tag: "a-dev", Before: digest.FromBytes(manifest("four")), BeforeMark: mark}); err != nil {
		t.Fatal(err)
	}
	r.run()
	r.push("web", "2.0.0", "last")
	eventually(t, "the last is told", func() bool { return slices.Contains(l.lines(), "package.created web:2.0.0") })
	want := []string{
		"package.created web:a-dev", "tag.moved web:a-dev", "tag.moved web:a-dev", "package.deleted web:a-dev", "package.created web:a-dev",
		"package.created web:1.0.0", "package.deleted web:1.0.0", "package.created web:2.0.0",
	}
	if diff := cmp.Diff(want, l.lines()); diff != "" {
		t.Error(diff)
	}
	if left := keys(t, b, "events/outbox/"); len(left) != 3 {
		t.Errorf("what may yet happen is %v", left)
	}
	// After an hour it never will.
	r.stop()
	later := newReplica(t, b, func(o *events.Options) { o.Now = func() time.Time { return time.Now().Add(61 * time.Minute) } }, told("hook", l)).run()
	eventually(t, "it is forgotten", func() bool { return len(keys(t, b, "events/outbox/")) == 0 })
	later.stop()
	if len(l.got()) != len(want) {
		t.Errorf("what never happened was told: %v", l.lines())
	}
}

// A write of the tag that was about to happen, and does when the deliverer has looked, is told.
func TestWhatHappensLaterIsTold(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	r := newReplica(t, b, nil, told("hook", l)).run()
	slow := &hooked{Bucket: b}
	other := newReplica(t, slow, nil, told("hook", l))
	slow.before = func(op, key string) {
		if op == "put" && strings.HasSuffix(key, "/tags/1.0.0") {
			slow.before = nil
			// Meanwhile the deliverer goes through the outbox.
			r.push("web", "2.0.0", "two")
			eventually(t, "the other is told", func() bool { return len(l.got()) == 1 })
		}
	}
	other.push("web", "1.0.0", "one")
	eventually(t, "both are told", func() bool { return len(l.got()) == 2 })
	if diff := cmp.Diff([]string{"package.created web:2.0.0", "package.created web:1.0.0"}, l.lines()); diff != "" {
		t.Error(diff)
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	some := told("some", l)
	some.Events = []receivers.Event{receivers.PackageCreated}
	some.Filter = receivers.Filter{Charts: []string{"team/*"}, Prereleases: "exclude"}
	r := newReplica(t, newBucket(t), nil, some).run()
	r.push("web", "1.0.0", "one")
	r.push("team/web", "1.0.0-rc.1", "one")
	r.push("team/web", "x-dev", "one")
	r.push("team/web", "x-dev", "two")
	r.push("team/web", "1.0.0", "one")
	r.delete("team/web", "1.0.0")
	eventually(t, "two are told", func() bool { return len(l.got()) == 2 })
	eventually(t, "nothing waits", func() bool { return len(keys(t, r.b, "events/outbox/")) == 0 })
	if diff := cmp.Diff([]string{"package.created team/web:x-dev", "package.created team/web:1.0.0"}, l.lines()); diff != "" {
		t.Error(diff)
	}
}

// One receiver that hangs, and one that is not there, hold up neither pushes nor others.
func TestReceiversDoNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	hanging := listen(t, func(_ http.ResponseWriter, r *http.Request, _ got) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	good := listen(t, nil)
	gone := told("gone", hanging)
	gone.URL = "http://127.0.0.1:1/"
	r := newReplica(t, newBucket(t), func(o *events.Options) { o.Timeout = time.Hour }, told("hanging", hanging), gone, told("good", good)).run()
	const n = 50
	for i := range n {
		r.push("web", fmt.Sprintf("1.0.%d", i), "x")
	}
	eventually(t, "the good one is told of all", func() bool { return len(good.got()) == n })
	if len(hanging.got()) != 1 {
		t.Errorf("the hanging one got %d requests at once for one chart", len(hanging.got()))
	}
	eventually(t, "it is seen what waits", func() bool { return r.state("gone").Pending == n && r.state("hanging").Pending == n })
	if p := r.state("gone").Problem; !strings.Contains(p, "connection refused") {
		t.Errorf("the problem is %q", p)
	}
	if pending, _ := r.Counts("hanging"); pending != n {
		t.Errorf("%d wait", pending)
	}
}

// In order for each chart, with the same id at each attempt, however often a receiver fails.
func TestOrderAndIdsThroughFailures(t *testing.T) {
	t.Parallel()
	var count atomic.Int64
	l := listen(t, func(w http.ResponseWriter, _ *http.Request, _ got) {
		if count.Add(1)%3 != 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	r := newReplica(t, newBucket(t), nil, told("hook", l)).run()
	const n = 15
	charts := []string{"a", "b", "team/c"}
	for i := range n {
		for _, chart := range charts {
			r.push(chart, fmt.Sprintf("1.0.%d", i), "x")
		}
	}
	eventually(t, "all are delivered", func() bool { return r.seen.of("hook", events.Delivered) == n*len(charts) })
	seen, last := map[string]string{}, map[string]string{}
	for _, g := range l.got() {
		if id, ok := seen[g.event.Subject]; ok && id != g.event.ID {
			t.Errorf("%s has two ids", g.event.Subject)
		}
		seen[g.event.Subject] = g.event.ID
		if chart := g.event.Data.Chart; g.event.ID < last[chart] {
			t.Errorf("%s came after a later one of its chart", g.event.Subject)
		} else {
			last[chart] = g.event.ID
		}
		if g.header.Get("X-Chartroom-Delivery") != g.event.ID {
			t.Error("the header has another id")
		}
	}
	if len(seen) != n*len(charts) || r.seen.of("hook", events.Failed) == 0 {
		t.Errorf("%d were told of, with %d failures", len(seen), r.seen.of("hook", events.Failed))
	}
}

// An event that a receiver does not take holds up its own chart alone.
func TestAPoisonousEvent(t *testing.T) {
	t.Parallel()
	l := listen(t, func(w http.ResponseWriter, _ *http.Request, g got) {
		if g.event.Subject == "bad:1.0.0" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	r := newReplica(t, newBucket(t), nil, told("hook", l)).run()
	r.push("bad", "1.0.0", "x")
	r.push("bad", "1.0.1", "x")
	eventually(t, "it is tried again", func() bool {
		all := r.state("hook").Deliveries
		return len(all) == 1 && all[0].Attempt > 3
	})
	for i := range 20 {
		r.push("good", fmt.Sprintf("1.0.%d", i), "x")
	}
	eventually(t, "the others are told", func() bool { return r.seen.of("hook", events.Delivered) == 20 })
	if slices.Contains(l.lines(), "package.created bad:1.0.1") {
		t.Error("the next of its chart was told before it")
	}
}

func TestReceiversThatAreWrong(t *testing.T) {
	t.Parallel()
	elsewhere := listen(t, nil)
	for name, c := range map[string]struct {
		then    func(http.ResponseWriter, *http.Request, got)
		problem string
	}{
		"a server error": {status(500), "it answered 500"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request, _ got) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "a redirect, and none is followed"},
		"no modification": {status(304), "it answered 304"},
		"slow":            {func(_ http.ResponseWriter, r *http.Request, _ got) { <-r.Context().Done() }, "it did not answer in time"},
		"a huge header":   {func(w http.ResponseWriter, _ *http.Request, _ got) { w.Header().Set("X", strings.Repeat("x", 80<<10)) }, "headers exceeded"},
		"broken off":      {func(http.ResponseWriter, *http.Request, got) { panic(http.ErrAbortHandler) }, "EOF"},
		"no HTTP": {func(w http.ResponseWriter, _ *http.Request, _ got) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = c.Write([]byte("220 mail.example.com\r\n\r\n"))
				c.Close()
			}
		}, "malformed HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := listen(t, c.then)
			r := newReplica(t, newBucket(t), func(o *events.Options) { o.Timeout = 300 * time.Millisecond }, told("hook", l)).run()
			r.push("web", "1.0.0", "x")
			eventually(t, "it fails more than once", func() bool { return r.seen.of("hook", events.Failed) > 1 })
			eventually(t, "it is shown", func() bool { return strings.Contains(r.state("hook").Problem, c.problem) })
			l.answer(nil)
			eventually(t, "it is delivered", func() bool { return r.seen.of("hook", events.Delivered) == 1 })
			eventually(t, "that is shown", func() bool { return r.state("hook").Problem == "" })
			if all := r.state("hook").Deliveries; len(all) != 1 {
				t.Errorf("there are %d deliveries of one event", len(all))
			}
		})
	}
	if len(elsewhere.got()) > 0 {
		t.Error("a redirect was followed")
	}
}

// A status is enough, whatever follows it.
func TestAnswersAreReadWithinBounds(t *testing.T) {
	t.Parallel()
	l := listen(t, func(w http.ResponseWriter, r *http.Request, _ got) {
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(http.StatusAccepted)
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(strings.Repeat("<\xff", 8<<10))); err != nil {
				return
			}
		}
	})
	r := newReplica(t, newBucket(t), nil, told("hook", l)).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "it is delivered", func() bool { return len(r.state("hook").Deliveries) == 1 })
	answer := r.state("hook").Deliveries[0].Response
	if answer.Status != 202 || len(answer.Body) > 3*4<<10 || !strings.HasPrefix(answer.Body, "<�") || answer.Header["Set-Cookie"] != "" {
		t.Errorf("what is kept is %d, %d bytes, %v", answer.Status, len(answer.Body), answer.Header)
	}
}

func TestGone(t *testing.T) {
	t.Parallel()
	l := listen(t, status(http.StatusGone))
	b := newBucket(t)
	r := newReplica(t, b, nil, told("hook", l)).run()
	r.push("web", "1.0.0", "x")
	r.push("web", "1.0.1", "x")
	eventually(t, "it is known", func() bool { return r.state("hook").Gone })
	r.push("api", "1.0.0", "x")
	eventually(t, "the outbox is empty", func() bool { return len(keys(t, b, "events/outbox/")) == 0 })
	r.stop()
	if len(l.got()) != 1 {
		t.Errorf("it was told %d times", len(l.got()))
	}
	// Still, after a restart; until the configuration is another.
	r = newReplica(t, b, nil, told("hook", l)).run()
	r.push("api", "1.0.1", "x")
	eventually(t, "the outbox is empty", func() bool { return len(keys(t, b, "events/outbox/")) == 0 })
	r.stop()
	if len(l.got()) != 1 || !r.state("hook").Gone {
		t.Errorf("it was told %d times", len(l.got()))
	}
	l.answer(nil)
	other := told("hook", l)
	other.URL += "/v2"
	r = newReplica(t, b, nil, other).run()
	r.push("api", "1.0.2", "x")
	eventually(t, "it is told again", func() bool { return slices.Contains(l.lines(), "package.created api:1.0.2") })
	if r.state("hook").Gone {
		t.Error("it still counts as gone")
	}
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	l := listen(t, status(http.StatusInternalServerError))
	b := newBucket(t)
	r := newReplica(t, b, func(o *events.Options) { o.Patience = 300 * time.Millisecond }, told("hook", l)).run()
	for i := range 3 {
		r.push("web", fmt.Sprintf("1.0.%d", i), "x")
	}
	for i := range 30 {
		r.push(fmt.Sprint("chart-", i), "1.0.0", "x")
	}
	eventually(t, "all are given up", func() bool { return r.state("hook").Dead == 33 && r.state("hook").Pending == 0 })
	if r.seen.of("hook", events.Dead) != 33 {
		t.Errorf("%d were counted", r.seen.of("hook", events.Dead))
	}
	dead, err := r.DeadLetters(t.Context(), "hook", 100)
	if err != nil || len(dead) != 33 || !strings.Contains(dead[0].Problem, "500") || dead[0].Event.ID < dead[1].Event.ID {
		t.Fatalf("%d dead letters, %v", len(dead), err)
	}
	if first, err := r.DeadLetters(t.Context(), "hook", 2); err != nil || len(first) != 2 {
		t.Errorf("%d dead letters, %v", len(first), err)
	}
	l.answer(nil)
	before := len(l.got())
	if err := r.Redeliver(t.Context(), "hook", dead[5].Event.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is delivered", func() bool { return r.seen.of("hook", events.Delivered) == 1 })
	if g := l.got()[before]; g.event.ID != dead[5].Event.ID {
		t.Errorf("the id is %s", g.event.ID)
	}
	eventually(t, "it is no dead letter any more", func() bool { return r.state("hook").Dead == 32 })
}

func TestRedeliverAndPing(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	disabled := told("off", l)
	disabled.Disabled = true
	r := newReplica(t, newBucket(t), nil, told("hook", l), disabled).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "it is delivered", func() bool { return len(r.state("hook").Deliveries) == 1 })
	id := l.got()[0].event.ID
	if err := r.Redeliver(t.Context(), "hook", id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is delivered again", func() bool { return len(l.got()) == 2 })
	if l.got()[1].event.ID != id || string(l.got()[1].body) != string(l.got()[0].body) {
		t.Error("something else was delivered")
	}
	// By hand also to who is disabled.
	ping, err := r.Ping(t.Context(), "off")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ping is shown", func() bool {
		s := r.state("off")
		return s.Disabled && len(s.Deliveries) == 1 && s.Deliveries[0].Event.ID == ping && s.Deliveries[0].Event.Type == receivers.Ping
	})
	if g := l.got()[2]; g.event.Type != "dev.chartroom.ping" || g.event.Data.Actor != "somebody" {
		t.Errorf("got %+v", g.event)
	}
	for _, err := range []error{r.Redeliver(t.Context(), "hook", ping), r.Redeliver(t.Context(), "nobody", id), r.Redeliver(t.Context(), "hook", "../../x")} {
		if !errors.Is(err, events.ErrUnknown) {
			t.Errorf("error is %v", err)
		}
	}
	if _, err := r.Ping(t.Context(), "nobody"); !errors.Is(err, events.ErrUnknown) {
		t.Errorf("error is %v", err)
	}
	// A ping that fails is not tried again, and no dead letter.
	l.answer(status(500))
	if _, err := r.Ping(t.Context(), "hook"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has failed", func() bool { return r.state("hook").Problem != "" && r.state("hook").Pending == 0 })
	if r.state("hook").Dead != 0 {
		t.Error("a ping is a dead letter")
	}
}

func TestOnlyTheLastDeliveriesAreKept(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	r := newReplica(t, newBucket(t), nil, told("hook", l)).run()
	for i := range 30 {
		r.push("web", fmt.Sprintf("1.0.%d", i), "x")
	}
	eventually(t, "the last is kept", func() bool {
		s := r.state("hook")
		return len(s.Deliveries) > 0 && s.Deliveries[0].Event.Tag == "1.0.29"
	})
	if s := r.state("hook"); len(s.Deliveries) != 20 || s.Deliveries[19].Event.Tag != "1.0.10" {
		t.Errorf("%d are kept", len(s.Deliveries))
	}
}

// Too much is dropped, and never a push refused.
func TestQueuesAreBounded(t *testing.T) {
	t.Parallel()
	l := listen(t, status(500))
	b := newBucket(t)
	few := func(o *events.Options) { o.MaxQueued = 10 }
	r := newReplica(t, b, few, told("hook", l))
	for i := range 15 {
		r.push("web", fmt.Sprintf("1.0.%d", i), "x")
	}
	if n := len(keys(t, b, "events/outbox/")); n != 10 {
		t.Errorf("%d are in the outbox", n)
	}
	if n := r.seen.of("", events.Dropped); n != 5 || !strings.Contains(r.log.String(), "too many wait") {
		t.Errorf("%d were dropped: %s", n, r.log.String())
	}
	r.run()
	eventually(t, "the outbox is empty", func() bool { return len(keys(t, b, "events/outbox/")) == 0 })
	r.stop()
	r = newReplica(t, b, few, told("hook", l)).run()
	for i := range 5 {
		r.push("api", fmt.Sprintf("1.0.%d", i), "x")
	}
	eventually(t, "they are dropped", func() bool { return r.seen.of("hook", events.Dropped) == 5 })
	if n := len(keys(t, b, "events/queue/hook/")); n != 10 {
		t.Errorf("%d wait", n)
	}
}

// Two replicas, each of which pushes, and one of which ends in the middle.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	one, two := newReplica(t, b, nil, told("hook", l)).run(), newReplica(t, b, nil, told("hook", l)).run()
	const n = 60
	var pushing sync.WaitGroup
	for i, r := range []*replica{one, two} {
		pushing.Go(func() {
			for j := range n {
				if err := push(t.Context(), r.chart("web"), fmt.Sprintf("%d.0.%d", i, j), "x"); err != nil {
					t.Error(err)
				}
				if i == 0 && j == n/2 {
					one.stop() // It goes on pushing.
				}
			}
		})
	}
	pushing.Wait()
	seen := map[string]bool{}
	eventually(t, "all are told", func() bool {
		for _, line := range l.lines() {
			seen[line] = true
		}
		return len(seen) == 2*n
	})
}

// Clocks of replicas need not agree for what moves or removes a tag to come after what it replaces.
func TestClocksDiffer(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	ahead := newReplica(t, b, func(o *events.Options) { o.Now = func() time.Time { return time.Now().Add(10 * time.Minute) } }, told("hook", l))
	behind := newReplica(t, b, nil, told("hook", l))
	ahead.push("web", "x-dev", "one")
	behind.push("web", "x-dev", "two")
	behind.delete("web", "x-dev")
	behind.run()
	eventually(t, "all are told", func() bool { return len(l.got()) == 3 })
	if diff := cmp.Diff([]string{"package.created web:x-dev", "tag.moved web:x-dev", "package.deleted web:x-dev"}, l.lines()); diff != "" {
		t.Error(diff)
	}
}

// What receivers that there are no more have left behind goes after a day, not before.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	l := listen(t, status(500))
	b := newBucket(t)
	r := newReplica(t, b, nil, told("old", l)).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "it waits", func() bool {
		return len(keys(t, b, "events/queue/old/")) == 1 && len(keys(t, b, "events/receivers/old")) == 1
	})
	r.stop()
	fine := listen(t, nil)
	r = newReplica(t, b, nil, told("new", fine)).run()
	r.push("web", "1.0.1", "x")
	eventually(t, "the new one is told", func() bool { return len(fine.got()) == 1 })
	r.stop()
	if len(keys(t, b, "events/queue/old/")) != 1 {
		t.Error("it is gone at once")
	}
	newReplica(t, b, func(o *events.Options) { o.Now = func() time.Time { return time.Now().Add(25 * time.Hour) } }, told("new", fine)).run()
	eventually(t, "it is gone", func() bool { return len(keys(t, b, "events/queue/old/"))+len(keys(t, b, "events/receivers/old")) == 0 })
}

// What is damaged holds up nothing.
func TestDamagedObjects(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	for _, key := range []string{
		"events/outbox/web/0000000000000001-aaaaaaaaaa", "events/outbox/web/x.y", "events/outbox/-/x", "events/queue/hook/web/0000000000000001-aaaaaaaaaa",
		"events/queue/hook/-/1", "events/dead/hook/x", "events/receivers/hook.json", "events/troubles/registry-quota.json",
	} {
		for content := range slices.Values([]string{"{", "null", strings.Repeat("x", 100<<10)}) {
			if _, err := b.Put(t.Context(), key, strings.NewReader(content), int64(len(content)), bucket.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := newReplica(t, b, nil, told("hook", l)).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "it is told", func() bool { return len(l.got()) == 1 && r.state("hook").Pending == 0 })
	eventually(t, "nothing is left", func() bool { return len(keys(t, b, "events/outbox/"))+len(keys(t, b, "events/queue/")) == 0 })
	if !strings.Contains(r.log.String(), "an event is damaged") {
		t.Error("nobody is told that events were damaged")
	}
}

// What does not fit where it is, is not what was written there: it leads nowhere else, and holds up nothing.
func TestForeignObjects(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	for key, content := range map[string]string{
		"events/outbox/web/0000000000000001-aaaaaaaaaa":     `{"certain":true,"event":{"id":"../../../x","type":"package.created","chart":"web","tag":"1.0.0"}}`,
		"events/outbox/web/0000000000000002-aaaaaaaaaa":     `{"event":{"id":"0000000000000002-aaaaaaaaaa","type":"package.deleted","chart":"../api","tag":"1.0.0"}}`,
		"events/outbox/web/0000000000000003-aaaaaaaaaa":     `{"event":{"id":"0000000000000002-aaaaaaaaaa","type":"package.deleted","chart":"web","tag":"1.0.0"}}`,
		"events/queue/hook/web/0000000000000001-aaaaaaaaaa": `{"event":{"id":"../x","type":"package.created"}}`,
	} {
		if _, err := b.Put(t.Context(), key, strings.NewReader(content), int64(len(content)), bucket.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	r := newReplica(t, b, nil, told("hook", l)).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "nothing is left", func() bool { return len(keys(t, b, "events/outbox/"))+len(keys(t, b, "events/queue/")) == 0 })
	if diff := cmp.Diff([]string{"package.created web:1.0.0"}, l.lines()); diff != "" {
		t.Error(diff)
	}
}

// A tag that is damaged, so that nobody can tell what became of it, holds up no other.
func TestADamagedTag(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := newBucket(t)
	r := newReplica(t, b, nil, told("hook", l))
	r.push("web", "1.0.0", "x")
	if _, err := b.Put(t.Context(), "charts/web/tags/1.0.0", strings.NewReader("{"), 1, bucket.Condition{}); err != nil {
		t.Fatal(err)
	}
	r.push("web", "1.0.1", "x")
	r.run()
	eventually(t, "the other is told", func() bool { return len(l.got()) == 1 })
	if diff := cmp.Diff([]string{"package.created web:1.0.1"}, l.lines()); diff != "" {
		t.Error(diff)
	}
}

// A tag that cannot be read for a while holds up what came later in its chart, and nothing else.
func TestATagThatCannotBeRead(t *testing.T) {
	t.Parallel()
	l := listen(t, nil)
	b := &unread{Bucket: newBucket(t)}
	r := newReplica(t, b, nil, told("hook", l))
	r.push("web", "1.0.0", "x")
	r.push("web", "1.0.1", "x")
	r.push("api", "1.0.0", "x")
	b.key.Store("charts/web/tags/1.0.0")
	r.run()
	eventually(t, "the other chart is told", func() bool { return len(l.got()) == 1 && b.failed.Load() > 2 })
	b.key.Store("")
	eventually(t, "all is told", func() bool { return len(l.got()) == 3 })
	if diff := cmp.Diff([]string{"package.created api:1.0.0", "package.created web:1.0.0", "package.created web:1.0.1"}, l.lines()); diff != "" {
		t.Error(diff)
	}
}

// unread cannot read one key.
type unread struct {
	bucket.Bucket
	key    atomic.Value
	failed atomic.Int64
}

func (u *unread) Get(ctx context.Context, key string, r *bucket.Range) (io.ReadCloser, bucket.Info, error) {
	if u.key.Load() == key {
		u.failed.Add(1)
		return nil, bucket.Info{}, errKilled
	}
	return u.Bucket.Get(ctx, key, r)
}

// racing makes lists as a folder may: they lack what was put while they were made, and have what was put behind it.
type racing struct {
	bucket.Bucket
	prefix string
	// meanwhile puts two objects, and returns the key of the second once that is there; empty where it is not.
	meanwhile func() string
	once      sync.Once
}

func (r *racing) List(ctx context.Context, o bucket.ListOptions) (bucket.Page, error) {
	p, err := r.Bucket.List(ctx, o)
	if err == nil && o.Prefix == r.prefix {
		r.once.Do(func() {
			if key := r.meanwhile(); key != "" {
				p.Objects = append(p.Objects, bucket.Info{Key: key})
			}
		})
	}
	return p, err
}

func TestListsThatAreNotOfOneMoment(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"events/outbox/web/", "events/queue/hook/web/"} {
		l := listen(t, nil)
		b := newBucket(t)
		other := newReplica(t, b, nil, told("hook", l))
		other.push("web", "1.0.0", "x")
		race := &racing{Bucket: b, prefix: prefix}
		race.meanwhile = func() string {
			before := len(keys(t, b, prefix))
			other.push("web", "1.0.1", "x")
			other.push("web", "1.0.2", "x")
			// Nothing gets into a queue while it is listed, so this comes to its end in vain.
			for deadline := time.Now().Add(500 * time.Millisecond); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				if all := keys(t, b, prefix); len(all) == before+2 {
					return all[len(all)-1]
				}
			}
			return ""
		}
		newReplica(t, race, nil, told("hook", l)).run()
		eventually(t, "all are told", func() bool { return len(l.got()) == 3 })
		if diff := cmp.Diff([]string{"package.created web:1.0.0", "package.created web:1.0.1", "package.created web:1.0.2"}, l.lines()); diff != "" {
			t.Errorf("%s: %s", prefix, diff)
		}
	}
}

// Who looks at a receiver that fails sees since when, and when it is tried again; and nothing of it once it works.
func TestStateOfOneThatFails(t *testing.T) {
	l := listen(t, status(http.StatusInternalServerError))
	r := newReplica(t, newBucket(t), func(o *events.Options) { o.FirstPause, o.LongestPause = 200*time.Millisecond, 200*time.Millisecond }, told("one", l)).run()
	r.push("web", "1.0.0", "x")
	eventually(t, "it has failed twice", func() bool {
		s := r.state("one")
		return len(s.Deliveries) == 1 && s.Deliveries[0].Attempt > 1
	})
	s := r.state("one")
	if s.FailingSince.IsZero() || !s.FailingSince.Before(s.Deliveries[0].At) || !s.Next.After(s.Deliveries[0].At) || s.Receiver.URL != l.URL+"/hook" {
		t.Errorf("failing since %s, tried at %s and again at %s; %+v", s.FailingSince, s.Deliveries[0].At, s.Next, s.Receiver)
	}
	l.answer(status(http.StatusOK))
	eventually(t, "it works again", func() bool {
		s := r.state("one")
		return s.Problem == "" && s.FailingSince.IsZero() && s.Next.IsZero() && len(s.Deliveries) == 1
	})
}

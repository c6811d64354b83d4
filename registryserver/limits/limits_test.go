package limits_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/limits"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := limits.NewGate(3, 2, time.Second)
		enter := func(name string) func() {
			t.Helper()
			leave, ok := gate.Enter(t.Context(), name)
			if !ok {
				t.Fatalf("%s was refused", name)
			}
			return leave
		}
		refused := func(name string) {
			t.Helper()
			started := time.Now()
			if _, ok := gate.Enter(t.Context(), name); ok {
				t.Fatalf("%s was let in", name)
			}
			if waited := time.Since(started); waited != time.Second {
				t.Fatalf("it was refused after %s", waited)
			}
		}
		a1, a2 := enter("a"), enter("a")
		refused("a")
		b1 := enter("b")
		refused("b") // All places are taken, though b has one left.
		a1()
		b2 := enter("b")
		a2()
		b1()
		b2()
		// What waited and was refused holds no place.
		enter("a")()
		enter("a")()
		for _, leave := range []func(){enter("a"), enter("a"), enter("b")} {
			defer leave()
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := gate.Enter(ctx, "c"); ok {
			t.Error("somebody who is gone was let in")
		}
	})
}

func TestGateLetsInWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := limits.NewGate(4, 2, time.Minute)
		var running, most atomic.Int64
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				leave, ok := gate.Enter(t.Context(), fmt.Sprint(i%4))
				if !ok {
					t.Error("refused")
					return
				}
				defer leave()
				for n := running.Add(1); ; {
					if before := most.Load(); n <= before || most.CompareAndSwap(before, n) {
						break
					}
				}
				time.Sleep(time.Second)
				running.Add(-1)
			})
		}
		all.Wait()
		if most.Load() != 4 {
			t.Errorf("%d ran at once", most.Load())
		}
	})
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := limits.NewRates(10, 3)
		for range 3 {
			if !rates.Allow("a") {
				t.Error("the burst is refused")
			}
		}
		if rates.Allow("a") {
			t.Error("the burst has no end")
		}
		if !rates.Allow("b") {
			t.Error("another client is refused")
		}
		time.Sleep(100 * time.Millisecond)
		if !rates.Allow("a") || rates.Allow("a") {
			t.Error("there is not one more after a tenth of a second")
		}
	})
}

func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		places := make(limits.Places, 1)
		leave, err := places.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := places.Enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who waits for too long gets %v", err)
		}
		time.AfterFunc(time.Second, leave)
		second, err := places.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		second()
	})
}

// Whoever makes up new names gets no more memory than there is for them, and does not set others free for long.
func TestRatesForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := limits.NewRates(1, 1)
		for range 2 {
			for i := range 30_000 {
				if !rates.Allow(fmt.Sprint("x", i)) && i < 1000 {
					t.Fatalf("%d is refused", i)
				}
			}
			time.Sleep(time.Minute)
		}
		if n := rates.Known(); n > 10_000 {
			t.Errorf("%d clients are known", n)
		}
	})
}

func TestAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:5000":               "192.0.2.7",
		"[::ffff:192.0.2.7]:5000":      "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:5000":  "2001:db8:1:2::/64",
		"[fe80::1%eth0]:5000":          "fe80::/64",
		"[2001:db8:1:2:ffff::1]:40000": "2001:db8:1:2::/64",
		"pipe":                         "pipe",
	} {
		if got := limits.Address(remote); got != want {
			t.Errorf("%s is %s, want %s", remote, got, want)
		}
	}
}

package gather_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/gather"
)

// stalled takes nothing until it is let go on.
type stalled struct {
	once          sync.Once
	reached, goOn chan struct{}
	mu            sync.Mutex
	taken         bytes.Buffer
}

func (s *stalled) Write(p []byte) (int, error) {
	s.once.Do(func() {
		close(s.reached)
		<-s.goOn
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken.Write(p)
}

func lost(b []byte, lines int) []byte { return fmt.Appendf(b, "%d lines are missing\n", lines) }

func TestAnOutputThatStallsStopsNobody(t *testing.T) {
	out := &stalled{reached: make(chan struct{}), goOn: make(chan struct{})}
	lines := gather.New(out, lost)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		lines.Run(ctx)
		close(ended)
	}()
	line := strings.Repeat("x", 1000) + "\n"
	add := func(b []byte) []byte { return append(b, line...) }
	lines.Add(add)
	<-out.reached
	const added = 3 << 10
	for range added {
		lines.Add(add)
	}
	close(out.goOn)
	stop()
	<-ended
	kept := strings.Count(out.taken.String(), line) - 1
	want := fmt.Sprintf("%d lines are missing\n", added-kept)
	if kept < 500 || kept > 1100 || !strings.HasSuffix(out.taken.String(), want) {
		t.Errorf("%d of %d lines were kept, and the log ends with %.200s", kept, added, out.taken.String()[out.taken.Len()-200:])
	}
}

func TestAnOutputThatStallsLetsTheProgramEnd(t *testing.T) {
	out := &stalled{reached: make(chan struct{}), goOn: make(chan struct{})}
	defer close(out.goOn)
	lines := gather.New(out, lost)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		lines.Run(ctx)
		close(ended)
	}()
	lines.Add(func(b []byte) []byte { return append(b, "x\n"...) })
	<-out.reached
	stop()
	<-ended
}

func TestLinesAreWrittenInTheirOrder(t *testing.T) {
	var out bytes.Buffer
	lines := gather.New(&out, lost)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		lines.Run(ctx)
		close(ended)
	}()
	var want strings.Builder
	for i := range 100 {
		lines.Add(func(b []byte) []byte { return fmt.Appendf(b, "%d\n", i) })
		fmt.Fprintf(&want, "%d\n", i)
	}
	stop()
	<-ended
	if out.String() != want.String() {
		t.Errorf("got %s", &out)
	}
}

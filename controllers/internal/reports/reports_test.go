package reports

import (
	"reflect"
	"testing"
	"time"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestSummaries(t *testing.T) {
	pod := func(name, problem string, single bool) Pod {
		return Pod{Name: name, Storage: wire.StorageState{Problem: problem, SingleWriter: single}}
	}
	for name, c := range map[string]struct {
		state         State
		single, known bool
		problem       string
	}{
		"nobody answered":                   {State{}, false, false, ""},
		"good":                              {State{Pods: []Pod{pod("a", "", false), pod("b", "", false)}}, false, true, ""},
		"one can write alone only":          {State{Pods: []Pod{pod("a", "", false), pod("b", "", true)}}, true, true, ""},
		"a pod with a problem cannot tell":  {State{Pods: []Pod{pod("a", "gone", false)}}, false, false, "a"},
		"others can":                        {State{Pods: []Pod{pod("a", "gone", false), pod("b", "", false)}}, false, true, "a"},
		"single writer in spite of trouble": {State{Pods: []Pod{pod("a", "full", true)}}, true, true, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			if single, known := c.state.SingleWriter(); single != c.single || known != c.known {
				t.Errorf("SingleWriter is %t, %t, want %t, %t", single, known, c.single, c.known)
			}
			got := ""
			if p := c.state.Problem(); p != nil {
				got = p.Name
			}
			if got != c.problem {
				t.Errorf("the pod with the problem is %q, want %q", got, c.problem)
			}
		})
	}
}

func TestUsageIsRenewedNowAndThen(t *testing.T) {
	start := time.Now()
	answered := State{Pods: []Pod{{Name: "a"}}}
	usage := func(bytes int64) *wire.UsageState { return &wire.UsageState{SizeBytes: bytes} }
	state := State{}
	for _, step := range []struct {
		what  string
		after time.Duration
		next  State
		said  *wire.UsageState
		want  *wire.UsageState
		since time.Duration
	}{
		{"nobody counts", 0, answered, nil, nil, -1},
		{"the first", time.Second, answered, usage(1), usage(1), time.Second},
		{"soon after", 10 * time.Second, answered, usage(2), usage(1), time.Second},
		{"later", 31 * time.Second, answered, usage(2), usage(2), 31 * time.Second},
		{"nothing new", 90 * time.Second, answered, usage(2), usage(2), 31 * time.Second},
		{"nobody answers", 100 * time.Second, State{}, nil, usage(2), 31 * time.Second},
		{"nobody counts any more", 101 * time.Second, answered, nil, nil, -1},
	} {
		state = step.next.Used(step.said, state, start.Add(step.after))
		since := start.Add(step.since)
		if step.since < 0 {
			since = time.Time{}
		}
		if !reflect.DeepEqual(state.Usage, step.want) || !state.UsageAt.Equal(since) {
			t.Errorf("%s: %+v since %s", step.what, state.Usage, state.UsageAt.Sub(start))
		}
	}
}

func TestRetentionIsThatOfTheLatestRun(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	early, late := &wire.RetentionState{LastRun: at, Planned: 1, Problem: "broken"}, &wire.RetentionState{LastRun: at.Add(time.Hour), Planned: 2}
	if got := (State{Pods: []Pod{{Name: "a"}}}).Retention(); got != nil {
		t.Errorf("nobody says anything, and yet %+v", got)
	}
	for _, pods := range [][]Pod{
		{{Name: "a"}, {Name: "b", Retention: early}, {Name: "c", Retention: late}},
		{{Name: "a", Retention: late}, {Name: "b", Retention: early}},
	} {
		got := State{Pods: pods}.Retention()
		if got == nil || got.Planned != 2 || got.Problem != "pod b: broken" {
			t.Errorf("%+v", got)
		}
	}
	if late.Problem != "" {
		t.Error("what a pod said was changed")
	}
}

func TestGarbageIsSummedUp(t *testing.T) {
	early, late := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	pod := func(sweep *time.Time, freed, waiting int64, problem string) Pod {
		return Pod{Garbage: wire.GarbageState{LastSweep: sweep, FreedBytes: freed, WaitingBytes: waiting, Problem: problem}}
	}
	for name, c := range map[string]struct {
		pods []Pod
		want wire.GarbageState
	}{
		"before a sweep":              {[]Pod{pod(nil, 1, 10, ""), pod(nil, 2, 20, "")}, wire.GarbageState{FreedBytes: 3, WaitingBytes: 30}},
		"the last to sweep knows":     {[]Pod{pod(&early, 1, 10, ""), pod(&late, 2, 20, ""), pod(nil, 3, 40, "")}, wire.GarbageState{LastSweep: &late, FreedBytes: 6, WaitingBytes: 20}},
		"whatever the order":          {[]Pod{pod(nil, 3, 40, ""), pod(&late, 2, 20, ""), pod(&early, 1, 10, "")}, wire.GarbageState{LastSweep: &late, FreedBytes: 6, WaitingBytes: 20}},
		"the first problem is enough": {[]Pod{pod(nil, 0, 0, ""), pod(nil, 0, 0, "a"), pod(nil, 0, 0, "b")}, wire.GarbageState{Problem: "a"}},
	} {
		if got, known := (State{Pods: c.pods}).Garbage(); !known || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %t, want %+v", name, got, known, c.want)
		}
	}
	if _, known := (State{}).Garbage(); known {
		t.Error("known while nobody has answered")
	}
}

func TestUsesOfSeveralPods(t *testing.T) {
	early, late := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	uses := Uses{"a": {At: map[string]time.Time{"x": early, "y": late}}, "b": {At: map[string]time.Time{"x": late}}, "c": {}}
	for token, want := range map[string]time.Time{"x": late, "y": late, "z": {}} {
		if got := uses.Of(token); !got.Equal(want) {
			t.Errorf("%s was used last at %v, want %v", token, got, want)
		}
	}
	if got := Uses(nil).Of("x"); !got.IsZero() {
		t.Errorf("nobody has said anything, and yet %v", got)
	}
}

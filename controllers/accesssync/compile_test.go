package accesssync

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/controllers/internal/ledger"
	"github.com/chartroom-dev/chartroom/controllers/internal/tokens"
	"github.com/chartroom-dev/chartroom/registryserver/access"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newRegistry() *v1alpha1.HelmRegistry {
	return &v1alpha1.HelmRegistry{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "charts", UID: "uid-charts"}}
}

// issued is a token with its Secret, made age hours ago.
func issued(t *testing.T, name string, age int, change func(*v1alpha1.RegistryToken)) tokens.Input {
	t.Helper()
	token := &v1alpha1.RegistryToken{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "team-a", Name: name, UID: types.UID("uid-" + name), Finalizers: []string{v1alpha1.FinalizerToken},
			CreationTimestamp: metav1.NewTime(now.Add(-time.Duration(age) * time.Hour)),
		},
		Spec: v1alpha1.RegistryTokenSpec{RegistryRef: v1alpha1.RegistryReference{Name: "charts", Namespace: "team-a"}},
	}
	if change != nil {
		change(token)
	}
	seed := sha256.Sum256([]byte(name))
	minted, err := access.Mint(bytes.NewReader(append(seed[:], seed[:]...)))
	if err != nil {
		t.Fatal(err)
	}
	at := token.CreationTimestamp.Time
	secret := tokens.BuildSecret(token, []*v1alpha1.HelmRegistry{newRegistry()}, tokens.Credentials{Current: tokens.NewCredential(token, minted, at)}, nil)
	return tokens.Input{Token: token, Registries: []*v1alpha1.HelmRegistry{newRegistry()}, Secret: secret, Now: now}
}

func TestCompile(t *testing.T) {
	deleted := metav1.NewTime(now)
	inputs := []tokens.Input{
		issued(t, "reader", 4, nil),
		issued(t, "ci", 3, func(token *v1alpha1.RegistryToken) {
			token.Spec.Scopes = []v1alpha1.Scope{v1alpha1.ScopeWrite, v1alpha1.ScopeRead}
			token.Spec.Charts = []string{"web/*", "api-*"}
			token.Spec.TTL = &metav1.Duration{Duration: 24 * time.Hour}
		}),
		issued(t, "soon", 2, func(token *v1alpha1.RegistryToken) { token.Spec.TTL = &metav1.Duration{Duration: 3 * time.Hour} }),
		issued(t, "expired", 2, func(token *v1alpha1.RegistryToken) { token.Spec.TTL = &metav1.Duration{Duration: time.Hour} }),
		issued(t, "revoked", 2, func(token *v1alpha1.RegistryToken) { token.Spec.State = v1alpha1.TokenRevoked }),
		issued(t, "proved", 2, func(token *v1alpha1.RegistryToken) {
			token.Spec.State = v1alpha1.TokenRevoked
			token.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionRevoked, Status: metav1.ConditionTrue}}
		}),
		issued(t, "deleted", 2, func(token *v1alpha1.RegistryToken) { token.DeletionTimestamp = &deleted }),
		issued(t, "foreign", 2, func(token *v1alpha1.RegistryToken) { token.Namespace = "team-b" }),
		issued(t, "pending", 1, nil),
	}
	inputs[len(inputs)-1].Secret = nil
	c := compile(newRegistry(), inputs)
	c.access.Revision = 7
	isGolden(t, "access.json", &c.access)
	if _, err := access.Compile(c.access); err != nil {
		t.Errorf("the server refuses the snapshot: %v", err)
	}
	if diff := cmp.Diff(map[types.UID]bool{"uid-revoked": true, "uid-proved": true, "uid-deleted": true}, c.refused); diff != "" {
		t.Errorf("refused: %s", diff)
	}
	slices.Sort(c.unproved)
	if diff := cmp.Diff([]types.UID{"uid-deleted", "uid-revoked"}, c.unproved); diff != "" {
		t.Errorf("unproved: %s", diff)
	}
	if want := now.Add(time.Hour); !c.next.Equal(want) {
		t.Errorf("the snapshot changes at %v, want %v", c.next, want)
	}
	slices.Reverse(inputs)
	if again := compile(newRegistry(), inputs); again.access.ContentDigest() != c.access.ContentDigest() {
		t.Error("the order in which tokens are listed changes the snapshot")
	}
}

func TestCompileLeavesTheYoungestOut(t *testing.T) {
	for name, c := range map[string]struct {
		tokens, charts, fit int
	}{
		"by number": {tokens: access.MaxTokens + 3, charts: 1, fit: access.MaxTokens},
		"by size":   {tokens: 80, charts: 64, fit: 46},
	} {
		t.Run(name, func(t *testing.T) {
			var globs []string
			for i := range c.charts {
				globs = append(globs, fmt.Sprintf("%02d%s*", i, strings.Repeat("x", 248)))
			}
			var inputs []tokens.Input
			for i := range c.tokens {
				inputs = append(inputs, issued(t, fmt.Sprintf("token-%04d", i), c.tokens-i, func(token *v1alpha1.RegistryToken) {
					token.Spec.Charts = globs
					if c.charts == 1 {
						token.Spec.Charts = []string{"*"}
					}
				}))
			}
			out := compile(newRegistry(), inputs)
			if len(out.access.Tokens) != c.fit || out.leftOut != c.tokens-c.fit {
				t.Fatalf("%d tokens are in and %d out, want %d in", len(out.access.Tokens), out.leftOut, c.fit)
			}
			for _, token := range out.access.Tokens {
				if token.Name > fmt.Sprintf("team-a/token-%04d", c.fit-1) {
					t.Errorf("%s displaced an older token", token.Name)
				}
			}
			if n := len(out.access.Encode()); n > wire.MaxAccessBytes {
				t.Errorf("the snapshot has %d bytes", n)
			}
		})
	}
}

// rotating makes a token that was issued be replaced: one that ended is still in its overlap, another is staged.
func rotating(t *testing.T, in tokens.Input) tokens.Input {
	t.Helper()
	read, err := tokens.ReadCredentials(in.Token, in.Secret, now)
	if err != nil {
		t.Fatal(err)
	}
	other := func(name string) tokens.Credential {
		c, err := tokens.ReadCredentials(in.Token, issued(t, in.Token.Name+name, 0, nil).Secret, now)
		if err != nil {
			t.Fatal(err)
		}
		return c.Current
	}
	previous, next, end := other("-previous"), other("-next"), now.Add(time.Hour)
	previous.ExpiresAt = &end
	read.Previous, read.Next = &previous, &next
	in.Secret = tokens.BuildSecret(in.Token, in.Registries, read, nil)
	return in
}

func TestCompileRotation(t *testing.T) {
	in := rotating(t, issued(t, "ci", 30, nil))
	out := compile(newRegistry(), []tokens.Input{in})
	ends := map[string]int{}
	for _, entry := range out.access.Tokens {
		if entry.Name != "team-a/ci" {
			t.Errorf("an entry is of %s", entry.Name)
		}
		if entry.ExpiresAt == nil {
			ends["never"]++
		} else {
			ends[entry.ExpiresAt.Format(time.TimeOnly)]++
		}
	}
	if diff := cmp.Diff(map[string]int{"never": 2, "13:00:00": 1}, ends); diff != "" {
		t.Errorf("the entries by their end: %s", diff)
	}
	if want := now.Add(time.Hour); !out.next.Equal(want) {
		t.Errorf("the snapshot changes at %v, want %v", out.next, want)
	}
	in.Now = out.next
	if out := compile(newRegistry(), []tokens.Input{in}); len(out.access.Tokens) != 2 {
		t.Errorf("once the overlap has ended there are %d entries, want 2", len(out.access.Tokens))
	}
	revoked := in
	revoked.Token = in.Token.DeepCopy()
	revoked.Token.Spec.State = v1alpha1.TokenRevoked
	if out := compile(newRegistry(), []tokens.Input{revoked}); len(out.access.Tokens) != 0 {
		t.Errorf("of a revoked token there are %d entries", len(out.access.Tokens))
	}
}

// What rotates takes no room from what is published.
func TestCompileMakesRotationsWait(t *testing.T) {
	var inputs []tokens.Input
	for i := range access.MaxTokens - 1 {
		in := issued(t, fmt.Sprintf("token-%04d", i), access.MaxTokens-i, nil)
		if i < 2 {
			in = rotating(t, in)
		}
		inputs = append(inputs, in)
	}
	out := compile(newRegistry(), inputs)
	byName := map[string]int{}
	for _, entry := range out.access.Tokens {
		byName[entry.Name]++
	}
	if len(byName) != len(inputs) || out.leftOut != 3 || byName["team-a/token-0000"] != 2 {
		t.Errorf("%d of %d tokens are in, %d entries are left out, the oldest token has %d; want 2", len(byName), len(inputs), out.leftOut, byName["team-a/token-0000"])
	}
	if !slices.ContainsFunc(out.access.Tokens, func(entry wire.Token) bool { return entry.ExpiresAt != nil }) {
		t.Error("a replaced token gave way to one that is staged")
	}
}

func TestTokensOfOtherNamespacesDisplaceNobody(t *testing.T) {
	inputs := []tokens.Input{issued(t, "own", 0, nil)}
	for i := range access.MaxTokens {
		in := issued(t, fmt.Sprintf("foreign-%04d", i), 1, func(token *v1alpha1.RegistryToken) { token.Namespace = "team-b" })
		in.Registries[0].Spec.AllowedNamespaces.From = v1alpha1.NamespacesAll
		inputs = append(inputs, in)
	}
	out := compile(newRegistry(), inputs)
	if out.leftOut != 1 || !slices.ContainsFunc(out.access.Tokens, func(token wire.Token) bool { return token.Name == "team-a/own" }) {
		t.Errorf("%d tokens are left out, and the one of the registry's own namespace is among them", out.leftOut)
	}
}

func TestNarrows(t *testing.T) {
	token := func(id string, scopes ...wire.Scope) wire.Token {
		return wire.Token{ID: id, Scopes: scopes, Charts: []string{"*"}}
	}
	past := now.Add(-time.Minute)
	ended := token("ended", wire.ReadPackages)
	ended.ExpiresAt = &past
	both := wire.Access{Visibility: wire.Private, Tokens: []wire.Token{token("a", wire.ReadPackages), token("b", wire.ReadPackages)}}
	one := wire.Access{Visibility: wire.Private, Tokens: both.Tokens[:1]}
	for name, c := range map[string]struct {
		older, newer wire.Access
		want         bool
	}{
		"nothing before": {wire.Access{}, both, false},
		"same":           {both, both, false},
		"added":          {one, both, false},
		"removed":        {both, one, true},
		"scope changed":  {one, wire.Access{Tokens: []wire.Token{token("a", wire.WritePackages)}}, true},
		"expired":        {wire.Access{Tokens: []wire.Token{ended}}, wire.Access{}, false},
		"now public":     {wire.Access{Visibility: wire.Private}, wire.Access{Visibility: wire.Public}, false},
		"now private":    {wire.Access{Visibility: wire.Public}, wire.Access{Visibility: wire.Private}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := narrows(c.older, c.newer, now); got != c.want {
				t.Errorf("narrows is %v, want %v", got, c.want)
			}
		})
	}
}

func TestOverdue(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
		if change != nil {
			change(p)
		}
		return p
	}
	unready := func(p *corev1.Pod) { p.Status.Conditions = nil }
	for name, c := range map[string]struct {
		pod     *corev1.Pod
		failing time.Time
		want    bool
	}{
		"answers":           {pod(nil), time.Time{}, false},
		"ready, just now":   {pod(nil), now.Add(-fenceReadyAfter + time.Second), false},
		"ready, for long":   {pod(nil), now.Add(-fenceReadyAfter), true},
		"unready":           {pod(unready), now.Add(-fenceReadyAfter), false},
		"unready, for long": {pod(unready), now.Add(-fenceUnreadyAfter), true},
		"being deleted":     {pod(func(p *corev1.Pod) { at := metav1.NewTime(now); p.DeletionTimestamp = &at }), now.Add(-time.Hour), false},
		"not running": {pod(func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "registry", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}}
		}), now.Add(-time.Hour), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := overdue(c.pod, c.failing, now); got != c.want {
				t.Errorf("overdue is %v, want %v", got, c.want)
			}
		})
	}
}

func TestNextRevision(t *testing.T) {
	at := func(revision uint64, digest string) wire.AccessState {
		return wire.AccessState{Revision: revision, Digest: digest}
	}
	for name, c := range map[string]struct {
		before wire.Access
		pods   []wire.AccessState
		want   uint64
	}{
		"first":                           {wire.Access{}, nil, 1},
		"unchanged":                       {wire.Access{Revision: 4, Digest: "new"}, []wire.AccessState{at(4, "new"), at(3, "old")}, 4},
		"changed":                         {wire.Access{Revision: 4, Digest: "old"}, []wire.AccessState{at(4, "old")}, 5},
		"restored Secret, pods are ahead": {wire.Access{Revision: 4, Digest: "new"}, []wire.AccessState{at(9, "x")}, 10},
		"same revision, other content":    {wire.Access{Revision: 4, Digest: "new"}, []wire.AccessState{at(4, "x")}, 5},
		"Secret deleted":                  {wire.Access{}, []wire.AccessState{at(9, "new")}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{pods: map[types.UID]podMemory{}}
			for i, state := range c.pods {
				m.pods[types.UID(fmt.Sprint(i))] = podMemory{answered: true, state: state}
			}
			if got := m.nextRevision(c.before, "new"); got != c.want {
				t.Errorf("the next revision is %d, want %d", got, c.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	}
	down := pod("down")
	down.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "registry", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}}
	at := func(revision uint64) podMemory {
		return podMemory{answered: true, state: wire.AccessState{Revision: revision, Digest: fmt.Sprint(revision)}}
	}
	snapshot := func(revision uint64) *ledger.Snapshot {
		return &ledger.Snapshot{Access: wire.Access{Revision: revision, Digest: fmt.Sprint(revision)}}
	}
	refusing := at(6)
	refusing.refused = true
	for name, c := range map[string]struct {
		pods    []*corev1.Pod
		known   map[types.UID]podMemory
		leftOut int
		taken   bool
		want    string // confirmed/total reason, revision in force
		message string
	}{
		"all":               {[]*corev1.Pod{pod("a"), pod("b")}, map[types.UID]podMemory{"a": at(7), "b": at(7)}, 0, false, "2/2 , 7", ""},
		"one behind":        {[]*corev1.Pod{pod("a"), pod("b")}, map[types.UID]podMemory{"a": at(7), "b": at(6)}, 0, false, "1/2 WaitingForReplicas, 6", "waiting for b"},
		"one new":           {[]*corev1.Pod{pod("a"), pod("b")}, map[types.UID]podMemory{"a": at(7)}, 0, false, "1/2 WaitingForReplicas, none", "waiting for b"},
		"one fell back":     {[]*corev1.Pod{pod("a")}, map[types.UID]podMemory{"a": at(3)}, 0, false, "0/1 WaitingForReplicas, none", ""},
		"other content":     {[]*corev1.Pod{pod("a")}, map[types.UID]podMemory{"a": {answered: true, state: wire.AccessState{Revision: 7, Digest: "x"}}}, 0, false, "0/1 WaitingForReplicas, 6", ""},
		"many behind":       {[]*corev1.Pod{pod("a"), pod("b"), pod("c"), pod("d")}, nil, 0, false, "0/4 WaitingForReplicas, none", "a, b, c and 1 more"},
		"one does not run":  {[]*corev1.Pod{pod("a"), down}, map[types.UID]podMemory{"a": at(7)}, 0, false, "1/1 , 7", ""},
		"none":              {nil, nil, 0, false, "0/0 NoReplicas, 7", ""},
		"one refuses":       {[]*corev1.Pod{pod("a")}, map[types.UID]podMemory{"a": refusing}, 0, false, "0/1 SnapshotRefused, 6", "refused by a"},
		"too many tokens":   {[]*corev1.Pod{pod("a")}, map[types.UID]podMemory{"a": at(7)}, 3, false, "1/1 TooManyTokens, 7", "3 of its tokens"},
		"Secret name taken": {[]*corev1.Pod{pod("a")}, map[types.UID]podMemory{"a": at(7)}, 0, true, "1/1 NameTaken, 7", "charts-access"},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{newest: snapshot(7), inForce: snapshot(6), pods: c.known}
			s := m.judge(newRegistry(), c.pods, compiled{leftOut: c.leftOut}, c.taken)
			inForce := "none"
			if s.InForce != nil {
				inForce = fmt.Sprint(s.InForce.Access.Revision)
			}
			if got := fmt.Sprintf("%d/%d %s, %s", s.Confirmed, s.Total, s.Reason, inForce); got != c.want {
				t.Errorf("judged %q, want %q", got, c.want)
			}
			if !strings.Contains(s.Message, c.message) {
				t.Errorf("the message %q does not say %q", s.Message, c.message)
			}
		})
	}
}

// A token of several registries is in the snapshot of those that its selector chooses and its status tells of; where it no
// longer is for, its revocation is still proved.
func TestCompileTokensOfSeveralRegistries(t *testing.T) {
	choosing := func(recorded ...string) func(*v1alpha1.RegistryToken) {
		return func(token *v1alpha1.RegistryToken) {
			token.Spec.RegistryRef = v1alpha1.RegistryReference{}
			token.Spec.RegistrySelector = &metav1.LabelSelector{}
			for _, name := range recorded {
				token.Status.Registries = append(token.Status.Registries, v1alpha1.TokenRegistry{Name: name})
			}
		}
	}
	left := issued(t, "left", 1, choosing("charts"))
	left.Registries = nil
	leftRevoked := issued(t, "left-revoked", 1, choosing("charts"))
	leftRevoked.Registries, leftRevoked.Token.Spec.State = nil, v1alpha1.TokenRevoked
	c := compile(newRegistry(), []tokens.Input{
		issued(t, "not-held", 1, func(token *v1alpha1.RegistryToken) { token.Finalizers = nil }),
		issued(t, "recorded", 1, choosing("charts", "other")), issued(t, "not-recorded", 1, choosing("other")), left, leftRevoked,
	})
	if len(c.access.Tokens) != 1 || c.access.Tokens[0].Name != "team-a/recorded" {
		t.Errorf("the snapshot has %+v", c.access.Tokens)
	}
	if len(c.refused) != 1 || !c.refused["uid-left-revoked"] {
		t.Errorf("refused are %v", c.refused)
	}
}

// isGolden compares a snapshot with a file of testdata, which -update writes.
func isGolden(t *testing.T, name string, snapshot *wire.Access) {
	t.Helper()
	golden, got := filepath.Join("testdata", name), snapshot.Encode()
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

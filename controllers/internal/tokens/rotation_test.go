package tokens

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
	"github.com/chartroom-dev/chartroom/registryserver/access"
)

// rotating is a token that is replaced each day, with two hours of overlap.
func rotating() *v1alpha1.RegistryToken {
	token := newToken()
	token.Spec.Rotation = &v1alpha1.Rotation{
		Interval: metav1.Duration{Duration: 24 * time.Hour}, Overlap: &metav1.Duration{Duration: 2 * time.Hour}}
	return token
}

// record writes into the status what the controller does once the Secret was written.
func record(token *v1alpha1.RegistryToken, c Credentials) {
	token.Status.TokenID, token.Status.LastHandledRotationRequest = c.Current.ID, c.Handled
	token.Status.IssuedAt = &metav1.Time{Time: c.Current.IssuedAt}
	token.Status.ExpiresAt, token.Status.PreviousExpiresAt = nil, nil
	if c.Current.ExpiresAt != nil {
		token.Status.ExpiresAt = &metav1.Time{Time: *c.Current.ExpiresAt}
	}
	if c.Previous != nil {
		token.Status.PreviousExpiresAt = &metav1.Time{Time: *c.Previous.ExpiresAt}
	}
}

func ask(value string) func(*v1alpha1.RegistryToken) {
	return func(token *v1alpha1.RegistryToken) {
		metav1.SetMetaDataAnnotation(&token.ObjectMeta, v1alpha1.AnnotationRotationRequested, value)
	}
}

func TestDecideOnRotation(t *testing.T) {
	first, second, third := mint(t, 1), mint(t, 2), mint(t, 3)
	staged := func(token *v1alpha1.RegistryToken, c *Credentials) {
		next := NewCredential(token, second, now.Add(-time.Minute))
		c.Next = &next
	}
	for name, c := range map[string]struct {
		hours    int // Since the issue of the published token.
		change   func(*v1alpha1.RegistryToken)
		with     func(*v1alpha1.RegistryToken, *Credentials)
		enforced bool
		action   Action
		reason   string
	}{
		"not due":                {23, nil, nil, false, Keep, ReasonPublished},
		"due":                    {24, nil, nil, false, Stage, ReasonRotating},
		"long due":               {2400, nil, nil, false, Stage, ReasonRotating},
		"due, not yet recorded":  {24, func(token *v1alpha1.RegistryToken) { token.Status = v1alpha1.RegistryTokenStatus{} }, nil, false, Keep, ReasonPublished},
		"without a rotation":     {2400, func(token *v1alpha1.RegistryToken) { token.Spec.Rotation = nil }, nil, false, Keep, ReasonPublished},
		"asked for":              {1, ask("now"), nil, false, Stage, ReasonRotating},
		"asked for, no rotation": {1, func(token *v1alpha1.RegistryToken) { ask("now")(token); token.Spec.Rotation = nil }, nil, false, Stage, ReasonRotating},
		"asked for and done":     {1, ask("now"), func(_ *v1alpha1.RegistryToken, c *Credentials) { c.Handled = "now" }, false, Keep, ReasonPublished},
		"asked for again":        {1, ask("again"), func(_ *v1alpha1.RegistryToken, c *Credentials) { c.Handled = "now" }, false, Stage, ReasonRotating},
		"the request taken back": {1, nil, func(_ *v1alpha1.RegistryToken, c *Credentials) { c.Handled = "now" }, false, Keep, ReasonPublished},
		"asked for at length": {1, ask(strings.Repeat("x", 1000)), func(_ *v1alpha1.RegistryToken, c *Credentials) {
			c.Handled = strings.Repeat("x", v1alpha1.MaxRotationRequest)
		}, false, Keep, ReasonPublished},
		"the one before still works": {30, nil, func(_ *v1alpha1.RegistryToken, c *Credentials) {
			at := now.Add(time.Hour)
			c.Previous = &Credential{ID: third.ID(), SHA256: third.SHA256(), ExpiresAt: &at}
		}, false, Keep, ReasonPublished},
		"the one before has ended": {30, nil, func(_ *v1alpha1.RegistryToken, c *Credentials) {
			at := now
			c.Previous = &Credential{ID: third.ID(), SHA256: third.SHA256(), ExpiresAt: &at}
		}, false, Stage, ReasonRotating},
		"would come after the end": {24, func(token *v1alpha1.RegistryToken) {
			token.Spec.ExpiresAt = hoursFromNow(0)
			token.Spec.ExpiresAt.Time = now.Add(time.Second)
		}, nil, false, Stage, ReasonRotating},
		"at the end":                     {24, func(token *v1alpha1.RegistryToken) { token.Spec.ExpiresAt = hoursFromNow(0) }, nil, false, Expire, ReasonExpired},
		"staged":                         {24, nil, staged, false, Keep, ReasonPublished},
		"staged, and the spec let it go": {24, func(token *v1alpha1.RegistryToken) { token.Spec.Rotation = nil }, staged, false, Keep, ReasonPublished},
		"staged, and enforced":           {24, nil, staged, true, Switch, ReasonRotated},
		"revoked while it is staged":     {24, func(token *v1alpha1.RegistryToken) { token.Spec.State = v1alpha1.TokenRevoked }, staged, true, Revoke, ReasonRevoked},
		"expired":                        {48, func(token *v1alpha1.RegistryToken) { token.Spec.TTL = &metav1.Duration{Duration: 48 * time.Hour} }, nil, false, Issue, ReasonLapsed},
		"expired with the one staged": {72, func(token *v1alpha1.RegistryToken) { token.Spec.TTL = &metav1.Duration{Duration: 48 * time.Hour} },
			func(token *v1alpha1.RegistryToken, c *Credentials) {
				next := NewCredential(token, second, now.Add(-48*time.Hour))
				c.Next = &next
			}, true, Issue, ReasonLapsed},
	} {
		t.Run(name, func(t *testing.T) {
			token := rotating()
			if c.change != nil {
				c.change(token)
			}
			credentials := current(token, first, c.hours)
			if c.with != nil {
				c.with(token, &credentials)
			}
			secret := publish(token, credentials)
			record(token, credentials)
			if c.change != nil {
				c.change(token)
			}
			d := Decide(Input{Token: token, Registries: registries(newRegistry()), Secret: secret, Now: now,
				Enforced: func(Credential) bool { return c.enforced }})
			if d.Action != c.action || d.Reason != c.reason {
				t.Fatalf("decided %v, %s (%s); want %v, %s", d.Action, d.Reason, d.Message, c.action, c.reason)
			}
			for _, token := range []access.Token{first, second, third} {
				if strings.Contains(d.Message, token.Reveal()) {
					t.Errorf("the message quotes a token: %s", d.Message)
				}
			}
		})
	}
}

// working are the tokens that the pods would admit, by when they end.
func working(t *testing.T, token *v1alpha1.RegistryToken, in Input) map[string]string {
	t.Helper()
	in.Token, in.Registries, in.Enforced = token, registries(newRegistry()), nil
	d := Decide(in)
	out := map[string]string{}
	if !d.InForce {
		return out
	}
	for _, c := range []*Credential{&d.Credentials.Current, d.Credentials.Previous, d.Credentials.Next} {
		if c != nil && !c.Expired(in.Now) {
			out[c.ID] = ""
			if c.ExpiresAt != nil {
				out[c.ID] = c.ExpiresAt.Format(time.RFC3339)
			}
		}
	}
	return out
}

// Secret and status are written one after the other and read from two caches: whatever is seen of either, the token that
// consumers have and the one that they get both work.
func TestRotationWorksWhateverIsSeenOfIt(t *testing.T) {
	first, second := mint(t, 1), mint(t, 2)
	token := rotating()
	before := current(token, first, 24)
	record(token, before)
	next := NewCredential(token, second, now)
	staged := before
	staged.Next = &next
	after := staged.switched(token, now)
	recorded := token.DeepCopy()
	record(recorded, after)
	later := after
	later.Previous = nil
	ended := token.DeepCopy()
	record(ended, later)
	restored := rotating()

	old, end := first.ID(), now.Add(2*time.Hour).Format(time.RFC3339)
	at := func(hours int) Input { return Input{Now: now.Add(time.Duration(hours) * time.Hour)} }
	for name, c := range map[string]struct {
		token *v1alpha1.RegistryToken
		in    Input
		c     Credentials
		want  map[string]string
	}{
		"before":                             {token, at(0), before, map[string]string{old: ""}},
		"staged":                             {token, at(0), staged, map[string]string{old: "", next.ID: ""}},
		"staged, for ever":                   {token, at(9000), staged, map[string]string{old: "", next.ID: ""}},
		"switched":                           {recorded, at(1), after, map[string]string{old: end, next.ID: ""}},
		"switched, the status behind":        {token, at(1), after, map[string]string{old: end, next.ID: ""}},
		"switched, the Secret behind":        {recorded, at(1), staged, map[string]string{old: end, next.ID: ""}},
		"overlap at its end":                 {recorded, at(2), after, map[string]string{next.ID: ""}},
		"overlap at its end, status behind":  {token, at(2), after, map[string]string{next.ID: ""}},
		"overlap at its end, Secret behind":  {recorded, at(2), staged, map[string]string{next.ID: ""}},
		"ended":                              {ended, at(3), later, map[string]string{next.ID: ""}},
		"ended, and the Secret put back":     {ended, at(3), staged, map[string]string{next.ID: ""}},
		"ended, and the Secret put way back": {ended, at(3), before, map[string]string{}},
		"restored":                           {restored, at(1), after, map[string]string{old: end, next.ID: ""}},
		"restored, staged":                   {restored, at(1), staged, map[string]string{old: "", next.ID: ""}},
		"restored after the overlap":         {restored, at(3), after, map[string]string{next.ID: ""}},
	} {
		t.Run(name, func(t *testing.T) {
			c.in.Secret = publish(token, c.c)
			if diff := cmp.Diff(c.want, working(t, c.token, c.in)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What the Secret says of the replaced token can end it, never prolong it.
func TestReplacedTokenIsNotProlonged(t *testing.T) {
	first, second := mint(t, 1), mint(t, 2)
	token := rotating()
	next := NewCredential(token, second, now)
	after := Credentials{Current: current(token, first, 24).Current, Next: &next}.switched(token, now)
	record(token, after)
	for name, c := range map[string]struct {
		annotation, value string
		hours             int
		want              bool
	}{
		"as it was":       {"x", "", 1, true},
		"later":           {v1alpha1.AnnotationPreviousExpiresAt, "2036-01-01T00:00:00Z", 2, false},
		"earlier":         {v1alpha1.AnnotationPreviousExpiresAt, "2026-03-01T12:30:00Z", 1, false},
		"never":           {v1alpha1.AnnotationPreviousExpiresAt, "", 1, false},
		"not an instant":  {v1alpha1.AnnotationPreviousExpiresAt, "never", 1, false},
		"not a hash":      {v1alpha1.AnnotationPreviousSHA256, "x", 1, false},
		"not an id":       {v1alpha1.AnnotationPreviousID, "x", 1, false},
		"a hash too long": {v1alpha1.AnnotationPreviousSHA256, strings.Repeat("0", 66), 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			secret := publish(token, after)
			secret.Annotations[c.annotation] = c.value
			works := working(t, token, Input{Secret: secret, Now: now.Add(time.Duration(c.hours) * time.Hour)})
			if _, got := works[first.ID()]; got != c.want {
				t.Errorf("the replaced token works: %v, want %v", got, c.want)
			}
			if _, got := works[second.ID()]; !got {
				t.Error("the token does not work")
			}
		})
	}
}

// What the Secret says of the issue of a token cannot prolong its life.
func TestTokensAreNotIssuedInTheFuture(t *testing.T) {
	first, second := mint(t, 1), mint(t, 2)
	token := rotating()
	token.Spec.TTL = &metav1.Duration{Duration: 48 * time.Hour}
	before := current(token, first, 24)
	next := NewCredential(token, second, now)
	staged := before
	staged.Next = &next
	for name, c := range map[string]struct {
		recorded   bool
		c          Credentials
		annotation string
		want       map[string]string
	}{
		"the published one": {false, before, v1alpha1.AnnotationIssuedAt, map[string]string{first.ID(): "2026-03-03T12:00:00Z"}},
		"the one that was switched": {true, staged.switched(token, now), v1alpha1.AnnotationIssuedAt,
			map[string]string{first.ID(): "2026-03-01T14:00:00Z", second.ID(): "2026-03-03T12:00:00Z"}},
		"the staged one": {true, staged, v1alpha1.AnnotationNextIssuedAt, map[string]string{first.ID(): "2026-03-02T12:00:00Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			token := token.DeepCopy()
			if c.recorded {
				record(token, before)
			}
			secret := publish(token, c.c)
			secret.Annotations[c.annotation] = "2036-01-01T00:00:00Z"
			if diff := cmp.Diff(c.want, working(t, token, Input{Secret: secret, Now: now})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOverlapEndsWithTheTokensOwnLife(t *testing.T) {
	token := rotating()
	token.Spec.TTL = &metav1.Duration{Duration: 25 * time.Hour}
	next := NewCredential(token, mint(t, 2), now)
	after := Credentials{Current: current(token, mint(t, 1), 24).Current, Next: &next}.switched(token, now)
	if want := now.Add(time.Hour); !after.Previous.ExpiresAt.Equal(want) {
		t.Errorf("the replaced token ends at %v, want %v", after.Previous.ExpiresAt, want)
	}
	if want := now.Add(25 * time.Hour); !after.Current.ExpiresAt.Equal(want) {
		t.Errorf("the new one ends at %v, want %v", after.Current.ExpiresAt, want)
	}
}

func TestOverlapByDefault(t *testing.T) {
	for interval, want := range map[time.Duration]time.Duration{time.Hour: 30 * time.Minute, 168 * time.Hour: 24 * time.Hour, 0: 24 * time.Hour} {
		token := newToken()
		if interval > 0 {
			token.Spec.Rotation = &v1alpha1.Rotation{Interval: metav1.Duration{Duration: interval}}
		}
		if got := token.Overlap(); got != want {
			t.Errorf("with an interval of %v the overlap is %v, want %v", interval, got, want)
		}
	}
}

// The whole life, with an operator that is away now and then: each rotation that is due happens once, whatever was missed.
func TestMissedRotationsHappenOnce(t *testing.T) {
	token := rotating()
	credentials := current(token, mint(t, 1), 0)
	rotations := 0
	for hour, seed := 0, byte(2); hour <= 24*20; hour++ {
		if day := hour / 24; day >= 5 && day < 15 {
			continue // It is away.
		}
		at := now.Add(time.Duration(hour) * time.Hour)
		for range 3 { // More than one pass makes no more of it.
			d := Decide(Input{Token: token, Registries: registries(newRegistry()), Secret: publish(token, credentials), Now: at,
				Enforced: func(Credential) bool { return true }})
			credentials = d.Credentials
			switch d.Action {
			case Stage:
				next := NewCredential(token, mint(t, seed), at)
				credentials.Next = &next
				seed++
			case Switch:
				rotations++
			case Keep:
			default:
				t.Fatalf("at hour %d it was decided %v, %s", hour, d.Action, d.Message)
			}
			record(token, credentials)
		}
	}
	// Days 1 to 4, day 15, and days 16 to 20.
	if rotations != 4+1+5 {
		t.Errorf("there were %d rotations, want 10", rotations)
	}
}

func TestNextChange(t *testing.T) {
	token := rotating()
	base := current(token, mint(t, 1), 1)
	next := NewCredential(token, mint(t, 2), now)
	end := now.Add(time.Hour)
	for name, c := range map[string]struct {
		change func(*v1alpha1.RegistryToken, *Credentials)
		want   time.Duration // From now; negative: never.
	}{
		"rotation": {func(*v1alpha1.RegistryToken, *Credentials) {}, 23 * time.Hour},
		"an end before it": {func(token *v1alpha1.RegistryToken, _ *Credentials) {
			token.Spec.ExpiresAt = hoursFromNow(23)
			token.Spec.ExpiresAt.Time = now.Add(23 * time.Hour)
		}, -1},
		"nothing":            {func(token *v1alpha1.RegistryToken, _ *Credentials) { token.Spec.Rotation = nil }, -1},
		"end of the overlap": {func(_ *v1alpha1.RegistryToken, c *Credentials) { c.Previous = &Credential{ExpiresAt: &end} }, time.Hour},
		"the warning":        {func(_ *v1alpha1.RegistryToken, c *Credentials) { c.Current.ExpiresAt = &end }, 36 * time.Minute},
		"expiry": {func(_ *v1alpha1.RegistryToken, c *Credentials) {
			c.Current.ExpiresAt, c.Current.IssuedAt = &end, now.Add(-9*time.Hour)
		}, time.Hour},
		"a rotation is due": {func(token *v1alpha1.RegistryToken, _ *Credentials) { ask("now")(token) }, 0},
		"it waits for pods": {func(token *v1alpha1.RegistryToken, c *Credentials) { ask("now")(token); c.Next = &next }, -1},
		"it waits for an end": {func(token *v1alpha1.RegistryToken, c *Credentials) {
			ask("now")(token)
			c.Previous = &Credential{ExpiresAt: &end}
		}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			token, credentials := token.DeepCopy(), base
			c.change(token, &credentials)
			got := NextChange(token, credentials, now)
			if (got == nil) != (c.want < 0) || got != nil && !got.Equal(now.Add(c.want)) {
				t.Errorf("the next change is at %v, want %v from now", got, c.want)
			}
		})
	}
}

func TestWarning(t *testing.T) {
	for name, c := range map[string]struct {
		life, rotation time.Duration // Zero: none.
		at             time.Duration // Since the issue, when somebody looks.
		want           time.Duration // Since the issue; negative: none.
	}{
		"does not expire":              {0, 0, 0, -1},
		"a year":                       {8760 * time.Hour, 0, 0, (8760 - 168) * time.Hour},
		"a day":                        {20 * time.Hour, 0, 0, 16 * time.Hour},
		"replaced before":              {48 * time.Hour, 24 * time.Hour, 0, -1},
		"replaced late":                {48 * time.Hour, 40 * time.Hour, 39 * time.Hour, -1},
		"should have been replaced":    {50 * time.Hour, 24 * time.Hour, 25 * time.Hour, 40 * time.Hour},
		"would be replaced afterwards": {20 * time.Hour, 24 * time.Hour, 0, 16 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			token := newToken()
			if c.life > 0 {
				token.Spec.TTL = &metav1.Duration{Duration: c.life}
			}
			if c.rotation > 0 {
				token.Spec.Rotation = &v1alpha1.Rotation{Interval: metav1.Duration{Duration: c.rotation}}
			}
			got := Warning(token, current(token, mint(t, 1), 0), now.Add(c.at))
			if (got == nil) != (c.want < 0) || got != nil && !got.Equal(now.Add(c.want)) {
				t.Errorf("it is said from %v, want %v after the issue", got, c.want)
			}
		})
	}
}

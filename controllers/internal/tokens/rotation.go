package tokens

import (
	"fmt"
	"time"

	"github.com/chartroom-dev/chartroom/api/v1alpha1"
)

// A token is replaced in two steps, so that whoever reads the Secret never gets a token that a pod refuses: the new one is
// first staged, which is to say written into the Secret beside the published one and into the access snapshot; once every
// live pod enforces it, the Secret is switched, and the overlap of the old one begins. Between the steps the operator may
// be away for as long as it likes: the old one stays as it was.

// rotationConfirmed finds a staged token that can be published.
func rotationConfirmed(f facts) (Decision, bool) {
	next := f.credentials.Next
	if next == nil || f.Enforced == nil || !f.Enforced(*next) {
		return Decision{}, false
	}
	after := f.credentials.switched(f.Token, f.Now)
	return Decision{Action: Switch, Reason: ReasonRotated, Credentials: after, InForce: true, Message: fmt.Sprintf(
		"%v replaces %v, which works until %s", after.Current, after.Previous, after.Previous.ExpiresAt.Format(time.RFC3339))}, true
}

// rotationDue finds a token whose time has come. It waits for the end of the one before: what was promised to those who
// still use that is kept. And it waits for the record of the one that is published, by which a Secret that went back to an
// earlier one is recognised.
func rotationDue(f facts) (Decision, bool) {
	c := f.credentials
	at := NextRotation(f.Token, c)
	if c.Next != nil || c.Previous != nil || at == nil || at.After(f.Now) || f.Token.Status.TokenID != c.Current.ID {
		return Decision{}, false
	}
	return Decision{Action: Stage, Reason: ReasonRotating, Credentials: c, InForce: true, Message: "a new token is issued"}, true
}

// NextRotation returns when the current token is to be replaced; nil when it is not. Where somebody asked for it, that is
// when it was issued, which has passed.
func NextRotation(t *v1alpha1.RegistryToken, c Credentials) *time.Time {
	if t.Unpublished() {
		return nil
	}
	at := c.Current.IssuedAt
	if request := t.RotationRequest(); request == "" || request == c.Handled {
		if t.Spec.Rotation == nil {
			return nil
		}
		at = at.Add(t.Spec.Rotation.Interval.Duration)
	}
	if end := t.Spec.ExpiresAt; end != nil && !at.Before(end.Time) {
		return nil // The new token would end with the old one.
	}
	return &at
}

// notice is the longest time before its end at which a token is said to expire soon; it is a fifth of its life where that
// is less.
const notice = 7 * 24 * time.Hour

// Warning returns the instant from which the current token is said to expire soon; nil when it does not expire, or is to
// be replaced before. A rotation whose time has come and that has not happened counts for nothing.
func Warning(t *v1alpha1.RegistryToken, c Credentials, now time.Time) *time.Time {
	end := c.Current.ExpiresAt
	if end == nil {
		return nil
	}
	if at := NextRotation(t, c); at != nil && at.After(now) && at.Before(*end) {
		return nil
	}
	at := end.Add(-min(notice, end.Sub(c.Current.IssuedAt)/5))
	return &at
}

// NextChange returns the next instant at which time alone changes what is to be done about the tokens; nil when there is
// none. What waits for pods is not among it. A rotation that is due changes something now.
func NextChange(t *v1alpha1.RegistryToken, c Credentials, now time.Time) *time.Time {
	rotation := NextRotation(t, c)
	instants := []*time.Time{c.Current.ExpiresAt, rotation, Warning(t, c, now)}
	switch {
	case c.Previous != nil:
		instants = append(instants, c.Previous.ExpiresAt)
	case c.Next == nil && rotation != nil && !rotation.After(now):
		return &now
	}
	var next *time.Time
	for _, at := range instants {
		if at != nil && at.After(now) && (next == nil || at.Before(*next)) {
			next = at
		}
	}
	return next
}

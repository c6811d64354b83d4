package web

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chartroom-dev/chartroom/registryserver/audit"
	"github.com/chartroom-dev/chartroom/registryserver/chart"
	"github.com/chartroom-dev/chartroom/registryserver/events"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

const (
	// changesShown is how many changes are shown to who did not ask for all.
	changesShown = 10
	// maxDeadShown is how many dead letters of a receiver are on a page, beside those among its deliveries: each is a read.
	maxDeadShown = 5
	// receiversAtOnce bounds the receivers that are read about at the same time.
	receiversAtOnce = 8
	// maxAskBytes bounds the forms that ask for a delivery.
	maxAskBytes = 4 << 10
)

// History knows the last changes; see events.History.
type History interface {
	Recent(ctx context.Context) ([]events.Event, error)
}

// Notifier knows how the receivers of events are; see events.Notifier.
type Notifier interface {
	Receivers() []string
	State(ctx context.Context, receiver string) (events.State, error)
	DeadLetters(ctx context.Context, receiver string, limit int) ([]events.DeadLetter, error)
	Ping(ctx context.Context, receiver string) (id string, err error)
	Redeliver(ctx context.Context, receiver, id string) error
}

// settingsPage shows how the registry is set up.
type settingsPage struct {
	wire.Settings
	Text textBody
}

func (h *Handler) settings(w http.ResponseWriter, r *request) error {
	// As with the tokens: it is about all charts.
	if !r.viewer.Manages {
		return errNotFound
	}
	p := settingsPage{Settings: h.o.Settings()}
	p.Text = shown(chart.Text{Name: "settings.yaml", Content: []byte(p.Spec)})
	return h.render(w, r, http.StatusOK, "settings", "Settings of "+h.displayName(), p)
}

// activityPage shows what happened last, and how it is told.
type activityPage struct {
	// Changes are the last ones; More is how many there are beside those that are shown.
	Changes   []events.Event
	More      int
	Receivers []receiverState
	Now       time.Time
}

// receiverState is how one receiver is.
type receiverState struct {
	events.State
	// DeadLetters are the youngest that are not among the deliveries, and Older is how many there are beside what is shown.
	DeadLetters []events.DeadLetter
	Older       int64
	// Asked is what was asked for a moment ago, "ping" or "redeliver"; empty for nothing.
	Asked string
	// Whole says that what was sent and answered is shown, too.
	Whole bool
}

func (h *Handler) activity(w http.ResponseWriter, r *request) error {
	// As with the tokens: it is about all charts.
	if !r.viewer.Manages {
		return errNotFound
	}
	if r.Method == http.MethodPost {
		return h.askForDelivery(w, r)
	}
	changes, err := h.o.History.Recent(r.Context())
	if err != nil {
		return err
	}
	p := activityPage{Changes: changes, Now: h.o.Now()}
	if _, all := r.URL.Query()["all"]; !all && len(changes) > changesShown {
		p.Changes, p.More = changes[:changesShown], len(changes)-changesShown
	}
	if h.o.Notifier != nil {
		if p.Receivers, err = h.receivers(r.Context()); err != nil {
			return err
		}
	}
	query := r.URL.Query()
	for i := range p.Receivers {
		if p.Receivers[i].Name == query.Get("receiver") {
			p.Receivers[i].Asked = query.Get("asked")
		}
		// Of one receiver at a time: of all it would be a large page.
		p.Receivers[i].Whole = p.Receivers[i].Name == query.Get("show")
	}
	return h.render(w, r, http.StatusOK, "activity", "Activity in "+h.displayName(), p)
}

// askForDelivery does what a button asks for. It leads back to the page, so that loading that again asks for nothing.
func (h *Handler) askForDelivery(w http.ResponseWriter, r *request) error {
	r.seen.Action = audit.Notify
	form, err := readForm(w, r, maxAskBytes)
	if err != nil {
		return err
	}
	receiver, event, asked := form.Get("receiver"), form.Get("event"), "ping"
	r.seen.Reference = strings.TrimSuffix(receiver+"/"+event, "/")
	switch {
	case h.o.Notifier == nil:
		err = events.ErrUnknown
	case event == "":
		_, err = h.o.Notifier.Ping(r.Context(), receiver)
	default:
		asked = "redeliver"
		err = h.o.Notifier.Redeliver(r.Context(), receiver, event)
	}
	if errors.Is(err, events.ErrUnknown) {
		return &statusError{http.StatusNotFound, "There is no such receiver, or it has had newer events since and this one is not kept. Look at Activity again."}
	}
	if err != nil {
		return fmt.Errorf("ask for a delivery to %s: %w", receiver, err)
	}
	query := url.Values{"asked": {asked}, "receiver": {receiver}}
	http.Redirect(w, r.Request, h.registryPath()+"/activity?"+query.Encode()+"#receiver-"+url.PathEscape(receiver), http.StatusSeeOther)
	return nil
}

func (h *Handler) receivers(ctx context.Context) ([]receiverState, error) {
	all := make([]receiverState, len(h.o.Notifier.Receivers()))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(receiversAtOnce)
	for i, name := range h.o.Notifier.Receivers() {
		group.Go(func() (err error) {
			all[i], err = h.receiver(ctx, name)
			return err
		})
	}
	return all, group.Wait()
}

func (h *Handler) receiver(ctx context.Context, name string) (receiverState, error) {
	state, err := h.o.Notifier.State(ctx, name)
	s := receiverState{State: state}
	if err != nil || state.Dead == 0 {
		return s, err
	}
	delivered := map[string]bool{}
	shown := int64(0)
	for _, d := range state.Deliveries {
		delivered[d.Event.ID] = true
		if d.Outcome == events.Dead && d.Event.Type != receivers.Ping {
			shown++
		}
	}
	if state.Dead <= shown {
		return s, nil
	}
	// As many as may be among the deliveries, and some more.
	if s.DeadLetters, err = h.o.Notifier.DeadLetters(ctx, name, int(shown)+maxDeadShown); err != nil {
		return s, err
	}
	s.DeadLetters = slices.DeleteFunc(s.DeadLetters, func(d events.DeadLetter) bool { return delivered[d.Event.ID] })
	s.DeadLetters = s.DeadLetters[:min(len(s.DeadLetters), maxDeadShown)]
	s.Older = max(0, state.Dead-shown-int64(len(s.DeadLetters)))
	return s, nil
}

// Host is where the receiver is. What is behind the host may be known to few.
func (s receiverState) Host() string {
	u, err := url.Parse(s.Receiver.URL)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// message is a request or an answer as it is written in HTTP/1.1, without its first line.
func message(header map[string]string, body string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(header)) {
		b.WriteString(name + ": " + header[name] + "\n")
	}
	return b.String() + "\n" + body
}

// ask is the form that asks for a delivery.
type ask struct {
	Action, Receiver string
	// Event is what is to be delivered once more.
	Event events.Event
}

// Ask is the form that asks for an event to be delivered to a receiver once more.
func (v view) Ask(receiver string, e events.Event) ask {
	return ask{Action: v.Registry() + "/activity", Receiver: receiver, Event: e}
}

// mood is how a condition is shown: as good, as a warning, or, where it is neither, as nothing.
func mood(c wire.Condition) string {
	good, bad := "True", "False"
	if c.Type == "Stalled" || c.Type == "Reconciling" { // True is not the normal state of these (Kubernetes API Conventions).
		good, bad = bad, good
	}
	switch c.Status {
	case good:
		return "good"
	case bad:
		return "warn"
	}
	return ""
}

// happened are events as people call them.
var happened = map[receivers.Event]string{
	receivers.PackageCreated: "Pushed", receivers.PackageCopied: "Copied", receivers.PackageDeleted: "Deleted", receivers.TagMoved: "Tag moved",
	receivers.StorageFailed: "Storage failed", receivers.QuotaReached: "Quota reached", receivers.Ping: "Ping",
}

// tookAbout is how long something took, in two digits.
func tookAbout(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "under 1 ms"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
}

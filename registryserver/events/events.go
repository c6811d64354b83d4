// Package events tells receivers outside of the registry what happens in it: that a version was pushed or deleted, that a
// tag was moved, that the storage or the quota stands in somebody's way.
//
// A push writes what it is about to do into the outbox, "events/outbox/<chart>/<id>", before it writes the tag, and the
// tag's object has that id as its mark. Whatever is killed at whatever moment, it can be told afterwards whether the tag was
// written: it has the mark, or what replaced it says so in the name of its own object in the outbox. What was never
// written is forgotten after an hour.
//
// One replica at a time moves what has happened from the outbox into a queue for each receiver,
// "events/queue/<receiver>/<chart>/<id>", and delivers it from there: in order for each chart, at least once, each receiver
// for itself. What could not be delivered for a day is put aside, below "events/dead/<receiver>/". What became of the last
// deliveries is in "events/receivers/<receiver>.json".
//
// Beside that a History keeps the last changes for people to look at, whoever is told of them, in "events/history.json".
package events

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"

	"github.com/chartroom-dev/chartroom/registryserver/bucket"
	"github.com/chartroom-dev/chartroom/registryserver/events/receivers"
	"github.com/chartroom-dev/chartroom/registryserver/lease"
	"github.com/chartroom-dev/chartroom/registryserver/repository"
)

const (
	outboxPrefix    = "events/outbox/"
	queuePrefix     = "events/queue/"
	deadPrefix      = "events/dead/"
	receiversPrefix = "events/receivers/"
	troublesPrefix  = "events/troubles/"

	// noChart stands for a chart where an event is about none, and byHand, in queues, where it was asked for by hand. No
	// chart's name begins so.
	noChart = "-"
	byHand  = "-asked"

	// maxDocumentBytes bounds what is read of one event, maxStateBytes of what is kept of a receiver.
	maxDocumentBytes = 64 << 10
	maxStateBytes    = 2 << 20
	// maxTextBytes bounds what others have written, in one field of an event.
	maxTextBytes = 1024

	defaultPoll      = 5 * time.Second
	defaultTTL       = 30 * time.Second
	defaultMaxQueued = 100_000
	defaultPatience  = 24 * time.Hour
	defaultFirst     = time.Second
	defaultLongest   = 5 * time.Minute
	defaultTimeout   = 10 * time.Second
	// troubleEvery is how far apart two events are that tell of the same trouble.
	troubleEvery = time.Hour
	// outboxCounted is how often a replica that writes into the outbox counts what is in it.
	outboxCounted = 10 * time.Second
	// shortly bounds small writes that must not be given up with what they are part of.
	shortly = 5 * time.Second
)

// ErrUnknown says that there is no such receiver, or no such delivery of it.
var ErrUnknown = errors.New("there is no such receiver or delivery")

// Event is one thing that has happened.
type Event struct {
	// ID tells it apart from all others, and is the same each time that it is sent.
	ID   string          `json:"id"`
	Type receivers.Event `json:"type"`
	// Time is when it happened, by the clock of the server on which it did.
	Time time.Time `json:"time"`
	// Chart is the path below the registry, Tag the tag and Version what it is the tag of: with "+" in place of "_" where
	// that makes a version. Digest, MediaType and Size are those of the manifest: of a version that was deleted, that which
	// it stood for. All are empty where the event is about no package.
	Chart     string        `json:"chart,omitempty"`
	Tag       string        `json:"tag,omitempty"`
	Version   string        `json:"version,omitempty"`
	Digest    digest.Digest `json:"digest,omitempty"`
	MediaType string        `json:"mediaType,omitempty"`
	Size      int64         `json:"size,omitempty"`
	// Before is what a tag that was moved stood for before.
	Before digest.Digest `json:"before,omitempty"`
	// CopiedFrom is what a package was copied from.
	CopiedFrom string `json:"copiedFrom,omitempty"`
	// By is who did it, as in audit records; empty where that is not known.
	By string `json:"by,omitempty"`
	// Message says what trouble there is.
	Message string `json:"message,omitempty"`
}

// Registry is what events say of the registry.
type Registry struct {
	// Organization and Registry are the first two elements of every repository's name.
	Organization, Registry string
	// URL is the address that clients use, without a path.
	URL *url.URL
	// Public says that everybody may read.
	Public bool
}

// name is "organization/registry".
func (r Registry) name() string { return r.Organization + "/" + r.Registry }

// address is the registry's own.
func (r Registry) address() string { return strings.TrimRight(r.URL.String(), "/") + "/" + r.name() }

// Outcome is what became of an attempt, or of an event.
type Outcome string

// The outcomes.
const (
	// Delivered: the receiver answered with a status of 2xx.
	Delivered Outcome = "delivered"
	// Failed: it did not, and it is tried again.
	Failed Outcome = "failed"
	// Dead: it is not tried again.
	Dead Outcome = "dead"
	// Dropped: it was never queued, because too much was.
	Dropped Outcome = "dropped"
)

// Options configure a Notifier. Fields without a default are needed.
type Options struct {
	// Bucket is where all is kept, below "events/".
	Bucket bucket.Bucket
	// Receivers are who is told. They are valid.
	Receivers []receivers.Receiver
	// Standing says what a tag stands for, as repository.Repository.Standing does.
	Standing func(ctx context.Context, chart, tag string) (digest.Digest, string, error)
	// Registry describes the registry as it is now.
	Registry func() Registry
	// Allowed are networks in which receivers may be although they are not public.
	Allowed []netip.Prefix
	// Actor says on whose behalf ctx is, where the change does not; empty where nobody can tell.
	Actor func(ctx context.Context) string
	// Observe, when not nil, is told of each attempt, and of what is dropped; then receiver is empty where nobody is told.
	// since is the time from the event on.
	Observe func(receiver string, o Outcome, since time.Duration)
	// UserAgent is that of all requests.
	UserAgent string
	Log       *slog.Logger

	// Poll is how often the replica that delivers looks for what others have recorded. Default: 5s.
	Poll time.Duration
	// LeaseTTL is for how long others wait for a replica that is gone. Default: 30s.
	LeaseTTL time.Duration
	// MaxQueued is how many events may wait in the outbox, and for each receiver. Default: 100,000.
	MaxQueued int
	// Patience is for how long an event is tried. Default: 24h.
	Patience time.Duration
	// FirstPause is the most that is waited after one failure, which doubles with each up to LongestPause. Defaults: 1s, 5m.
	FirstPause, LongestPause time.Duration
	// Timeout bounds one attempt. Default: 10s.
	Timeout time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.Poll, defaultPoll}, {&o.LeaseTTL, defaultTTL}, {&o.Patience, defaultPatience}, {&o.FirstPause, defaultFirst},
		{&o.LongestPause, defaultLongest}, {&o.Timeout, defaultTimeout},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if o.MaxQueued <= 0 {
		o.MaxQueued = defaultMaxQueued
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(string, Outcome, time.Duration) {}
	}
	if o.Actor == nil {
		o.Actor = func(context.Context) string { return "" }
	}
	return o
}

// Notifier is one replica's part in telling receivers. Make it with New. Its methods may be called from many goroutines.
type Notifier struct {
	o     Options
	lease *lease.Lease
	ids   ids
	// woken has something in it when this replica has recorded what happened.
	woken   chan struct{}
	workers []*worker

	// outbox is how many objects were in the outbox when they were last counted, and written how many this replica has
	// added since.
	outbox, written atomic.Int64

	mu sync.Mutex
	// told is when this replica last told of a trouble.
	told map[receivers.Event]time.Time
	// warned is when it last said that events are dropped.
	warned   time.Time
	troubles chan Event
}

// New returns a notifier that records at once, and delivers while Run runs.
func New(o Options) (*Notifier, error) {
	o = o.withDefaults()
	alone, err := lease.New(lease.Options{Bucket: o.Bucket, Name: "events", TTL: o.LeaseTTL})
	if err != nil {
		return nil, err
	}
	n := &Notifier{o: o, lease: alone, ids: ids{now: o.Now}, woken: make(chan struct{}, 1), told: map[receivers.Event]time.Time{}, troubles: make(chan Event, 2)}
	for _, r := range o.Receivers {
		n.workers = append(n.workers, &worker{n: n, r: r, woken: make(chan struct{}, 1), asked: make(chan struct{}, 1), failed: make(chan struct{}, 1), seed: maphash.MakeSeed()})
	}
	return n, nil
}

// Run delivers until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() {
		n.lease.Run(ctx, n.lead, func(err error) {
			n.o.Log.Warn("the lease for telling receivers of events cannot be had; it is tried again", "error", err)
		})
	})
	running.Go(func() { n.countOutbox(ctx) })
	running.Go(func() { n.tellTroubles(ctx) })
	running.Wait()
}

// ids makes ids whose order is that of time, also where the clocks of replicas differ, for what follows from another.
type ids struct {
	now func() time.Time

	mu   sync.Mutex
	last int64
}

const (
	idDigits = 16
	idRandom = 10
)

// after makes an id that is behind another one, and behind all that were made here.
func (i *ids) after(other string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	at := max(i.now().UnixMicro(), i.last+1, madeAt(other)+1)
	i.last = at
	return fmt.Sprintf("%0*x-%s", idDigits, at, strings.ToLower(rand.Text()[:idRandom]))
}

// madeAt is when an id was made in microseconds, by the clock of who made it; 0 for what is no id.
func madeAt(id string) int64 {
	if !isID(id) {
		return 0
	}
	at, err := strconv.ParseInt(id[:idDigits], 16, 64)
	if err != nil {
		return 0
	}
	return at
}

func isID(s string) bool {
	return len(s) == idDigits+1+idRandom && s[idDigits] == '-' && strings.IndexFunc(s, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-'
	}) < 0
}

// segment makes a chart's name one segment of a key. No name has a "+" of its own.
func segment(chart string) string {
	if chart == "" {
		return noChart
	}
	return strings.ReplaceAll(chart, "/", "+")
}

// versionOf is the version that a tag stands for.
func versionOf(tag string) string {
	version := strings.ReplaceAll(tag, "_", "+")
	if _, err := semver.NewVersion(version); err != nil {
		return tag
	}
	return version
}

// clip bounds what others have written.
func clip(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxTextBytes)], "")
}

func (n *Notifier) read(ctx context.Context, key string, limit int64, into any) error {
	_, err := readDocument(ctx, n.o.Bucket, key, limit, into)
	return err
}

// readDocument reads a small document, and returns its ETag, also of one that is damaged. Errors: bucket.ErrNotFound,
// errDamaged, bucket.ErrUnavailable.
func readDocument(ctx context.Context, b bucket.Bucket, key string, limit int64, into any) (etag string, err error) {
	r, info, err := b.Get(ctx, key, nil)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	defer r.Close()
	if info.Size > limit {
		return info.ETag, fmt.Errorf("%s: %w: it has %d bytes", key, errDamaged, info.Size)
	}
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w: %w", key, bucket.ErrUnavailable, err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		return info.ETag, fmt.Errorf("%s: %w: %w", key, errDamaged, err)
	}
	return info.ETag, nil
}

// errDamaged says that an object is not what was written there.
var errDamaged = errors.New("it is damaged")

func (n *Notifier) write(ctx context.Context, key string, document any, c bucket.Condition) error {
	return writeDocument(ctx, n.o.Bucket, key, document, c)
}

func writeDocument(ctx context.Context, b bucket.Bucket, key string, document any, c bucket.Condition) error {
	content, err := json.Marshal(document)
	if err == nil {
		_, err = b.Put(ctx, key, bytes.NewReader(content), int64(len(content)), c)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// names lists the keys below a prefix until f returns false.
func (n *Notifier) names(ctx context.Context, prefix string, f func(key string) bool) error {
	for after := ""; ; {
		p, err := n.o.Bucket.List(ctx, bucket.ListOptions{Prefix: prefix, StartAfter: after, NamesOnly: true})
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, i := range p.Objects {
			if !f(i.Key) {
				return nil
			}
		}
		if p.Next == "" {
			return nil
		}
		after = p.Next
	}
}

// folders lists what is right below a prefix that ends in "/".
func (n *Notifier) folders(ctx context.Context, prefix string, f func(name string) error) error {
	for after := ""; ; {
		p, err := n.o.Bucket.List(ctx, bucket.ListOptions{Prefix: prefix, StartAfter: after, Delimiter: "/"})
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, folder := range p.Prefixes {
			if err := f(strings.TrimSuffix(strings.TrimPrefix(folder, prefix), "/")); err != nil {
				return err
			}
		}
		if p.Next == "" {
			return nil
		}
		after = p.Next
	}
}

// wake wakes who waits for a channel, without waiting itself.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait returns after d, when woken, or when ctx ends.
func wait(ctx context.Context, woken <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-woken:
	case <-timer.C:
	}
}

// change is what a change of a tag is called.
func change(c repository.Change) receivers.Event {
	switch {
	case c.Digest == "":
		return receivers.PackageDeleted
	case c.Before != "" || c.BeforeMark != "":
		return receivers.TagMoved
	case c.CopiedFrom != "":
		return receivers.PackageCopied
	}
	return receivers.PackageCreated
}

// eventOf is the event that tells of a change.
func eventOf(ctx context.Context, id string, now time.Time, c repository.Change, actor func(context.Context) string) Event {
	by := c.By
	if by == "" {
		by = actor(ctx)
	}
	e := Event{
		ID: id, Type: change(c), Time: now.UTC(),
		Chart: c.Repository, Tag: c.Tag, Version: versionOf(c.Tag), Digest: c.Digest, MediaType: clip(c.MediaType), Size: c.Size,
		CopiedFrom: clip(c.CopiedFrom), By: clip(by),
	}
	switch e.Type {
	case receivers.PackageDeleted:
		e.Digest = c.Before
	case receivers.TagMoved:
		e.Before = c.Before
	}
	return e
}

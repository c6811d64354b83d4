package dir

import (
	"errors"
	"path"
	"sync"

	"golang.org/x/sys/unix"
)

// maxKnown bounds the directories that are remembered as durable; each takes about 50 bytes.
const maxKnown = 1 << 16

// syncs makes the names in directories durable. Those who want that of one directory at the same time share a sync:
// while one runs, which may not see what came after it began, all others wait for the next.
type syncs struct {
	system System

	mu       sync.Mutex
	running  map[identity]*batch
	awaiting map[identity]*batch
	// known are directories whose own names, and those of all directories above them, are durable. They stay so:
	// a directory with something in it can neither be removed nor, by this program, be moved.
	known map[identity]struct{}
}

// batch is one sync and those who wait for it.
type batch struct {
	done chan struct{}
	err  error
}

func newSyncs(s System) *syncs {
	return &syncs{system: s, running: map[identity]*batch{}, awaiting: map[identity]*batch{}, known: map[identity]struct{}{}}
}

// sync makes the names durable that are in d when it is called.
func (s *syncs) sync(d *directory) error {
	s.mu.Lock()
	if others := s.awaiting[d.id]; others != nil {
		s.mu.Unlock()
		<-others.done
		return others.err
	}
	mine := &batch{done: make(chan struct{})}
	if before := s.running[d.id]; before != nil {
		s.awaiting[d.id] = mine
		s.mu.Unlock()
		<-before.done
		s.mu.Lock()
		delete(s.awaiting, d.id)
	}
	s.running[d.id] = mine
	s.mu.Unlock()

	mine.err = interrupted(func() error { return s.system.Sync(d.fd) })
	// Some network file systems have no sync for directories: their servers are synchronous.
	if errors.Is(mine.err, unix.EINVAL) {
		mine.err = nil
	}

	s.mu.Lock()
	delete(s.running, d.id)
	s.mu.Unlock()
	close(mine.done)
	return mine.err
}

func (s *syncs) isKnown(id identity) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.known[id]
	return known
}

func (s *syncs) remember(known []*directory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range known {
		if len(s.known) >= maxKnown {
			clear(s.known)
		}
		s.known[d.id] = struct{}{}
	}
}

// syncNames makes the names in d durable, and its own and those of all directories above it unless they are known to
// be: whoever made them, in this process or another, may not have come to that yet.
func (b *Bucket) syncNames(d *directory) error {
	chain := []*directory{d}
	for last := d; last.name != "." && !b.syncs.isKnown(last.id); {
		parent, err := b.directory(path.Dir(last.name), false)
		if err != nil {
			return err
		}
		defer parent.close()
		chain = append(chain, parent)
		last = parent
	}
	errs := make([]error, len(chain))
	var others sync.WaitGroup
	for i := range chain[1:] {
		others.Go(func() { errs[i+1] = b.syncs.sync(chain[i+1]) })
	}
	errs[0] = b.syncs.sync(d)
	others.Wait()
	err := errors.Join(errs...)
	if err == nil {
		b.syncs.remember(chain[:len(chain)-1])
	}
	return err
}

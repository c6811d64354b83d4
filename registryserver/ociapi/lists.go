package ociapi

import "sync"

// Bounds of the lists that are kept: all of them, and one, in bytes.
const (
	maxLists = 4 << 20
	maxList  = maxLists / 4
)

// lists keeps whole lists of tags as they are sent, each for as long as the version of its tags is the same. The zero
// value is ready for use.
type lists struct {
	mu   sync.Mutex
	size int
	of   map[string]list
}

type list struct {
	version string
	body    []byte
}

// get returns the list of a repository whose tags have that version; nil when there is none.
func (l *lists) get(name, version string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if kept := l.of[name]; kept.version == version {
		return kept.body
	}
	return nil
}

// put keeps a list that was made after its tags had that version, and others only while there is room.
func (l *lists) put(name, version string, body []byte) {
	if len(body) > maxList {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[string]list{}
	}
	l.size += len(body) - len(l.of[name].body)
	l.of[name] = list{version, body}
	for other, kept := range l.of {
		if l.size <= maxLists {
			break
		}
		if other != name {
			l.size -= len(kept.body)
			delete(l.of, other)
		}
	}
}

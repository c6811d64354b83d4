package registryserver

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// toldFresh is how long it is not looked whether a file has changed.
const toldFresh = 2 * time.Second

// told is a document of the operator's, in a file that it may change and that need not be there.
type told[T any] struct {
	file   string
	decode func(document []byte) (T, error)
	// problem is what the log says of a document that is not taken.
	problem string
	log     *slog.Logger

	mu sync.Mutex
	// looked is when the file was looked at last, and document what it held then; good is the last that could be taken.
	looked   time.Time
	document []byte
	good     T
}

// get returns the document; the zero value where there is none.
func (t *told[T]) get() T {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.looked) > toldFresh {
		t.looked = now
		if err := t.look(); err != nil {
			t.log.Warn(t.problem, "file", t.file, "problem", err)
		}
	}
	return t.good
}

// look takes the file, if it is not as it was.
func (t *told[T]) look() error {
	document, err := os.ReadFile(t.file)
	if errors.Is(err, fs.ErrNotExist) {
		var none T
		t.good, t.document = none, nil
		return nil
	}
	if err != nil {
		return err
	}
	if bytes.Equal(document, t.document) {
		return nil
	}
	t.document = document
	good, err := t.decode(document)
	if err == nil {
		t.good = good
	}
	return err
}

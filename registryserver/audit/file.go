package audit

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/DeRuina/timberjack"
)

// FileOptions say where the record is kept beside standard output, and how much of it.
type FileOptions struct {
	// Path of the file.
	Path string
	// MaxMiB is the size from which on a file is put aside under a name with the time, and a new one begun.
	MaxMiB int
	// Keep is how many files are kept that were put aside; the oldest goes first.
	Keep int
}

// OpenFile opens the file, private to the user, and makes it where it is missing. log is told once when it cannot be
// written, and once more when it can be again.
func OpenFile(o FileOptions, log *slog.Logger) (io.WriteCloser, error) {
	// The library opens it with the first line only, which is too late to say that it cannot be.
	f, err := os.OpenFile(o.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the audit file: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("opening the audit file: %w", err)
	}
	return &file{
		Logger: &timberjack.Logger{Filename: o.Path, MaxSize: o.MaxMiB, MaxBackups: o.Keep, FileMode: 0o600},
		log:    log,
	}, nil
}

type file struct {
	*timberjack.Logger
	log     *slog.Logger
	failing atomic.Bool
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.Logger.Write(p)
	switch was := f.failing.Swap(err != nil); {
	case err != nil && !was:
		f.log.Error("the audit file cannot be written; records are missing there until it can be", "file", f.Filename, "error", err)
	case err == nil && was:
		f.log.Info("the audit file can be written again", "file", f.Filename)
	}
	return n, err
}

// Both writes to all outputs, whatever becomes of the others.
func Both(outputs ...io.Writer) io.Writer { return outputsOf(outputs) }

type outputsOf []io.Writer

func (o outputsOf) Write(p []byte) (n int, err error) {
	for _, w := range o {
		if _, failed := w.Write(p); failed != nil {
			err = failed
		}
	}
	return len(p), err
}

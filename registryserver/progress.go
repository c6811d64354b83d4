package registryserver

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	// progressStep is the part of a body that a client has to move within its patience. One deadline for a whole body
	// would either cut off large pushes over slow lines, or let a client that does nothing hold a connection for hours.
	progressStep = 32 << 10
	// maxPiece is the most that is written at once, for as many patiences as it has steps.
	maxPiece = 4 * progressStep
	// deadlineHolds is the part of the patience, as a divisor, for which a deadline is good for further writes within the
	// step that it was set for.
	deadlineHolds = 8
)

// deadlines are set on the connection of a request; those of net/http have them.
type deadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// fileStep is how much of a file the kernel is asked to send at once. A client need not take all of it within its
// patience, but progressStep.
const fileStep = 4 << 20

// response remembers what was answered, and moves the write deadline with each step that the client has taken.
type response struct {
	http.ResponseWriter
	requestInfo
	connection deadlines
	patience   time.Duration
	status     int
	bytes      int64
	// set is when the write deadline was last set, and left what may still be written before it has to be set anew.
	set  time.Time
	left int
	// encrypted connections cannot have the kernel send files.
	encrypted bool
}

// begin wraps w and the body of r. Deadlines that the connection does not support are not set; the listeners'
// connections all support them.
func (w *response) begin(to http.ResponseWriter, r *http.Request, patience time.Duration) {
	w.ResponseWriter, w.patience, w.encrypted = to, patience, r.TLS != nil
	var ok bool
	if w.connection, ok = to.(deadlines); !ok {
		w.connection = http.NewResponseController(to)
	}
	if r.ContentLength != 0 {
		// Set before anybody reads: what a refused request goes on to send is read by net/http.
		_ = w.connection.SetReadDeadline(time.Now().Add(patience))
		r.Body = &body{ReadCloser: r.Body, connection: w.connection, patience: patience, left: patience}
	}
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	written := 0
	for {
		piece := p[written:min(len(p), written+maxPiece)]
		w.allow(len(piece))
		n, err := w.ResponseWriter.Write(piece)
		written += n
		w.bytes += int64(n)
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// ReadFrom implements io.ReaderFrom for io.Copy: it has the kernel send the content of a file, or of the part of one that
// an *io.LimitedReader stands for, without a copy of it in this program.
func (w *response) ReadFrom(from io.Reader) (int64, error) {
	part, limited := from.(*io.LimitedReader)
	to, able := w.ResponseWriter.(io.ReaderFrom)
	var file *os.File
	if limited {
		file, _ = part.R.(*os.File)
	}
	if file == nil || !able || w.encrypted {
		return io.Copy(struct{ io.Writer }{w}, from)
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	for sent := int64(0); ; {
		step := &io.LimitedReader{R: file, N: min(part.N, fileStep)}
		asked := step.N
		w.allow(int(min(asked, progressStep)))
		n, err := to.ReadFrom(step)
		sent += n
		part.N -= n
		w.bytes += n
		slow := errors.Is(err, os.ErrDeadlineExceeded) && n >= progressStep
		if err != nil && !slow || !slow && n < asked || part.N <= 0 {
			return sent, err
		}
	}
}

// allow gives the client time for so many bytes.
func (w *response) allow(bytes int) {
	now := time.Now()
	if bytes > w.left || now.Sub(w.set) >= w.patience/deadlineHolds {
		steps := max(1, (bytes+progressStep-1)/progressStep)
		_ = w.connection.SetWriteDeadline(now.Add(time.Duration(steps) * w.patience))
		w.set, w.left = now, steps*progressStep
	}
	w.left -= bytes
}

// end is called before net/http sends what is left of the answer: its head, when it has no body.
func (w *response) end() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.allow(0)
}

// body gives the client its patience anew for each step that has arrived. Only the time spent waiting for the client
// counts: storage that is slow between two reads is not the client's fault. At the end of a body, and of a request,
// net/http takes the deadlines away.
type body struct {
	io.ReadCloser
	connection deadlines
	patience   time.Duration
	// left is what remains of the patience for this step, of which step bytes have arrived.
	left time.Duration
	step int
}

func (b *body) Read(p []byte) (int, error) {
	started := time.Now()
	_ = b.connection.SetReadDeadline(started.Add(b.left))
	n, err := b.ReadCloser.Read(p)
	b.left -= time.Since(started)
	b.step += n
	if b.step >= progressStep {
		b.step, b.left = 0, b.patience
	}
	return n, err
}

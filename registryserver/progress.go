package registryserver

import (
	"io"
	"net/http"
	"time"
)

// progressStep is the part of a body that a client has to move within its patience. One deadline for a whole body would
// either cut off large pushes over slow lines, or let a client that does nothing hold a connection for hours.
const progressStep = 32 << 10

// response remembers what was answered, and moves the write deadline with each step that the client has taken.
type response struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
	status   int
	bytes    int64
}

// newResponse wraps w and the body of r. Deadlines that the connection does not support are not set; the listeners'
// connections all support them.
func newResponse(w http.ResponseWriter, r *http.Request, patience time.Duration) *response {
	answer := &response{ResponseWriter: w, control: http.NewResponseController(w), patience: patience}
	if r.ContentLength != 0 {
		// Set before anybody reads: what a refused request goes on to send is read by net/http.
		_ = answer.control.SetReadDeadline(time.Now().Add(patience))
		r.Body = &body{ReadCloser: r.Body, control: answer.control, patience: patience, left: patience}
	}
	return answer
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	_ = w.control.SetWriteDeadline(time.Now().Add(w.patience))
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	written := 0
	for {
		step := p[written:min(len(p), written+progressStep)]
		_ = w.control.SetWriteDeadline(time.Now().Add(w.patience))
		n, err := w.ResponseWriter.Write(step)
		written += n
		w.bytes += int64(n)
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// body gives the client its patience anew for each step that has arrived. Only the time spent waiting for the client
// counts: storage that is slow between two reads is not the client's fault. At the end of a body, and of a request,
// net/http takes the deadlines away.
type body struct {
	io.ReadCloser
	control  *http.ResponseController
	patience time.Duration
	// left is what remains of the patience for this step, of which step bytes have arrived.
	left time.Duration
	step int
}

func (b *body) Read(p []byte) (int, error) {
	started := time.Now()
	_ = b.control.SetReadDeadline(started.Add(b.left))
	n, err := b.ReadCloser.Read(p)
	b.left -= time.Since(started)
	b.step += n
	if b.step >= progressStep {
		b.step, b.left = 0, b.patience
	}
	return n, err
}

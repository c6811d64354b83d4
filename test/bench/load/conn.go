package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// patience is how long one answer may take.
const patience = 2 * time.Minute

// Target is a server that is measured.
type Target struct {
	// Address is host:port.
	Address string
	// Authorization is the value of the header; empty for none.
	Authorization string
	// TLS is nil for plain HTTP.
	TLS *tls.Config
}

// Head is the head of a request, ready to be sent; more are further lines of it, without their ends.
func (t *Target) Head(method, path string, length int, more ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Helm/4.1.0\r\n", method, path, t.Address)
	if t.Authorization != "" {
		fmt.Fprintf(&b, "Authorization: %s\r\n", t.Authorization)
	}
	if length >= 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", length)
	}
	for _, line := range more {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// Answer is what a server said.
type Answer struct {
	Status int
	// Location is the path and query of the header.
	Location string
	// First is when the first line had come.
	First time.Time
	// Length of the body in bytes.
	Length int64
}

// Conn is a connection that is kept alive, for one goroutine. It speaks as much HTTP as the benchmarks need: net/http's
// client would cost as much as the servers do.
type Conn struct {
	target *Target
	conn   net.Conn
	reader *bufio.Reader
	// Body, when not nil, gets the bodies of answers.
	Body io.Writer
	// deadline is when the one that is set was set.
	deadline time.Time
}

// Dial makes a connection; it is opened when it is first used.
func (t *Target) Dial() *Conn { return &Conn{target: t} }

// Close ends the connection.
func (c *Conn) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func (c *Conn) open(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.target.Address)
	if err != nil {
		return err
	}
	if c.target.TLS != nil {
		conn = tls.Client(conn, c.target.TLS)
	}
	c.conn = conn
	if c.reader == nil {
		c.reader = bufio.NewReaderSize(nil, 64<<10)
	}
	c.reader.Reset(conn)
	return nil
}

// Do sends a request and reads the answer whole. An answer of another status than want is an error that quotes it.
func (c *Conn) Do(ctx context.Context, want int, head, body []byte) (Answer, error) {
	return c.Stream(ctx, want, head, body, 1)
}

// Stream is Do with a body that consists of times the same piece.
func (c *Conn) Stream(ctx context.Context, want int, head, piece []byte, times int) (Answer, error) {
	if c.conn == nil {
		if err := c.open(ctx); err != nil {
			return Answer{}, err
		}
		c.deadline = time.Time{}
	}
	if now := time.Now(); now.Sub(c.deadline) > patience/2 {
		c.deadline = now
		if err := c.conn.SetDeadline(now.Add(patience)); err != nil {
			return Answer{}, err
		}
	}
	if err := c.send(head, piece, times); err != nil {
		c.Close()
		return Answer{}, fmt.Errorf("sending %s: %w", firstLine(head), err)
	}
	answer, err := c.receive(bytes.HasPrefix(head, []byte("HEAD ")), want)
	if err != nil {
		c.Close()
		return answer, fmt.Errorf("%s: %w", firstLine(head), err)
	}
	return answer, nil
}

func (c *Conn) send(head, piece []byte, times int) error {
	if len(piece) == 0 {
		_, err := c.conn.Write(head)
		return err
	}
	buffers := net.Buffers{head, piece}
	if _, err := buffers.WriteTo(c.conn); err != nil {
		return err
	}
	for range times - 1 {
		if _, err := c.conn.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

func firstLine(head []byte) string {
	line, _, _ := strings.Cut(string(head), " HTTP/1.1\r\n")
	return line
}

var errForm = errors.New("the answer is not of the form of HTTP/1.1")

func (c *Conn) receive(isHead bool, want int) (Answer, error) {
	var a Answer
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	a.First = time.Now()
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return a, errForm
	}
	if a.Status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, errForm
	}
	length, chunked, closes := int64(-1), false, false
	for {
		if line, err = c.reader.ReadSlice('\n'); err != nil {
			return a, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		switch name, value, _ := bytes.Cut(line, []byte(": ")); {
		case is(name, "content-length"):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return a, errForm
			}
		case is(name, "transfer-encoding"):
			chunked = true
		case is(name, "connection"):
			closes = string(value) == "close"
		case is(name, "location"):
			a.Location = pathOf(string(value))
		}
	}
	var problem bytes.Buffer
	body := c.Body
	if a.Status != want {
		body = &problem
	}
	switch {
	case isHead || a.Status == 204 || a.Status == 304:
	case chunked:
		a.Length, err = c.chunks(body)
	default:
		a.Length, err = c.take(body, max(length, 0))
	}
	if closes {
		c.Close()
	}
	if err == nil && a.Status != want {
		return a, fmt.Errorf("%d in place of %d: %.300s", a.Status, want, &problem)
	}
	return a, err
}

func is(name []byte, lower string) bool {
	return len(name) == len(lower) && bytes.EqualFold(name, []byte(lower))
}

func pathOf(location string) string {
	if _, rest, absolute := strings.Cut(location, "://"); absolute {
		return rest[strings.IndexByte(rest, '/'):]
	}
	return location
}

func (c *Conn) take(body io.Writer, length int64) (int64, error) {
	if body != nil {
		return io.CopyN(body, c.reader, length)
	}
	taken, err := c.reader.Discard(int(length))
	return int64(taken), err
}

func (c *Conn) chunks(body io.Writer) (total int64, err error) {
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return total, err
		}
		size, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 64)
		if err != nil {
			return total, errForm
		}
		n, err := c.take(body, size)
		total += n
		if err == nil {
			_, err = c.reader.Discard(2)
		}
		if err != nil || size == 0 {
			return total, err
		}
	}
}

package live

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/flv"
)

const flvType = "video/x-flv"

// serveFLV answers with the stream as FLV. Where the connection is that of HTTP/1.1, the
// forward.Server gets it and sends the stream as it does to players of RTMP: at the end of
// the stream it closes the connection, which ends the body.
func serveFLV(w http.ResponseWriter, r *http.Request, p *forward.Player) {
	w.Header().Set("Content-Type", flvType)
	if r.Method == http.MethodHead {
		return
	}
	nc, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // HTTP/2, and writers of middleware
		writeFLV(w, p)
		return
	}
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\n")
	w.Header().Set("Connection", "close")
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	w.Header().Write(&head)
	head.WriteString("\r\n")
	p.ServeFLV(nc, head.Bytes()) // an error says only that the Player has ended
}

// writeFLV writes the stream as the body of an answer, in a goroutine of its own.
func writeFLV(w http.ResponseWriter, p *forward.Player) {
	out := newOutput(w, p)
	defer out.end()
	sub := p.Source().Subscribe(p.Context())
	defer sub.Close()
	buffered := bufio.NewWriterSize(out, 32<<10)
	tags := flv.NewWriter(buffered)
	first := true
	for {
		m, err := sub.Next()
		if err != nil {
			return
		}
		if m.Type == forward.TagData && first {
			m.Timestamp = 0 // FFmpeg takes metadata at any other time for a text stream
		}
		first = false
		if tags.WriteTag(m.Type, m.Timestamp, m.Payload) != nil || sub.Pending() == 0 && buffered.Flush() != nil {
			return
		}
	}
}

// output is the body of an answer whose client must take it in time.
type output struct {
	w    http.ResponseWriter
	p    *forward.Player
	conn *http.ResponseController
	stop func() bool // stops watching the Player's context
	cut  chan struct{}

	failed bool // a write has failed
}

func newOutput(w http.ResponseWriter, p *forward.Player) *output {
	o := &output{w: w, p: p, conn: http.NewResponseController(w), cut: make(chan struct{})}
	o.stop = context.AfterFunc(p.Context(), func() {
		defer close(o.cut)
		o.conn.SetWriteDeadline(time.Unix(1, 0))
	})
	return o
}

// Write writes b and flushes it.
func (o *output) Write(b []byte) (int, error) {
	n, err := o.write(b)
	if err == nil {
		err = o.conn.Flush()
	}
	return n, err
}

// writeAll writes pieces and flushes them.
func (o *output) writeAll(pieces [][]byte) error {
	for _, b := range pieces {
		if _, err := o.write(b); err != nil {
			return err
		}
	}
	return o.conn.Flush()
}

func (o *output) write(b []byte) (int, error) {
	if err := o.conn.SetWriteDeadline(o.p.Deadline()); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	if err := o.p.Context().Err(); err != nil { // after the deadline: see newOutput
		return 0, err
	}
	n, err := o.w.Write(b)
	o.p.Wrote(n)
	o.failed = o.failed || err != nil
	return n, err
}

// end ends the use of the connection, which is net/http's when the handler has returned.
func (o *output) end() {
	if !o.stop() {
		<-o.cut
	}
	if !o.failed {
		o.conn.SetWriteDeadline(o.p.Deadline()) // for the end of the body
	}
}

package fanout

import (
	"crypto/tls"
	"net"
	"sync"

	"github.com/rtmp-forward/forward/internal/gop"
)

// TLSClient is tls.Client for a connection that a Sender is to have. Over plain
// TCP the Sender then seals a batch where it would write it, and gives all its
// records to the socket in one write that does not block: no goroutine, no
// wake-up for each batch and destination.
func TLSClient(c net.Conn, cfg *tls.Config) *tls.Conn {
	// A renegotiation would have writes wait for the peer.
	if rawConn(c) != nil && cfg.Renegotiation == tls.RenegotiateNever {
		c = &records{Conn: c}
	}
	return tls.Client(c, cfg)
}

// TLSServer is tls.Server for a connection that a Sender is to have, as TLSClient.
func TLSServer(c net.Conn, cfg *tls.Config) *tls.Conn {
	if rawConn(c) != nil {
		c = &records{Conn: c}
	}
	return tls.Server(c, cfg)
}

// records is a TCP connection below TLS. What TLS writes goes on at once until
// the connection has a Sender, and is then kept for that to send. TLS writes
// records in the order in which it has sealed them.
type records struct {
	net.Conn

	mu      sync.Mutex
	wake    func() // has the Sender look for what is kept; nil: none is
	sealing bool   // the Sender will look anyway
	kept    []byte
}

// NetConn is the TCP connection, as of a tls.Conn.
func (r *records) NetConn() net.Conn { return r.Conn }

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	if r.wake == nil {
		r.mu.Unlock()
		return r.Conn.Write(p)
	}
	wake := r.wake
	switch {
	case r.sealing:
		wake = nil
	case len(r.kept)+len(p) > maxControl:
		r.mu.Unlock()
		return 0, ErrControl
	}
	r.kept = append(r.kept, p...)
	r.mu.Unlock()
	if wake != nil { // TLS answers the peer (KeyUpdate) or takes leave (close_notify)
		wake()
	}
	return len(p), nil
}

func (r *records) keep(wake func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake = wake
}

// begin announces that the Sender seals and takes what has come of it.
func (r *records) begin(space []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealing = true
	if len(r.kept) == 0 {
		r.kept = space[:0]
	}
}

// take returns the records that are kept.
func (r *records) take() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.kept
	r.kept, r.sealing = nil, false
	return p
}

func (r *records) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.kept) == 0
}

// recordsOf returns the records of a connection of TLSClient or TLSServer, nil of
// another.
func recordsOf(c net.Conn) *records {
	if tc, ok := c.(*tls.Conn); ok {
		r, _ := tc.NetConn().(*records)
		return r
	}
	return nil
}

// seal is what the socket is to be given next of a connection with TLS: the
// records that it has not taken yet, or those of what plain has.
func (s *Sender) seal(w *walk, limit int) []byte {
	for {
		if p := s.sealed[s.taken:]; len(p) > 0 {
			return p
		}
		if s.sealed != nil {
			w.sealed = s.sealed
		}
		s.sealed, s.taken = s.records.take(), 0
		if len(s.sealed) > 0 {
			continue
		}
		// What is sealed can't be overtaken any more: it must not be much.
		iov, batch := s.plain(w, min(limit, catchUp))
		switch {
		case iov != nil:
			p := w.join(iov, batch, catchUp)
			s.records.begin(w.sealed)
			w.sealed = nil
			if _, err := s.conn.Write(p); err != nil {
				s.fail(err)
				return nil
			}
			s.passed(batch, len(p), w.now, w)
		case s.records.empty(): // no close_notify either
			return nil
		}
	}
}

// join is the first bytes of iov in one piece, up to limit. Senders at the same
// place share it.
func (w *walk) join(iov [][]byte, batch *gop.Batch, limit int) []byte {
	if batch == nil || w.joined != batch || w.filling != batch.Filling() {
		w.gather, w.joined = w.gather[:0], batch
		if batch != nil {
			w.filling = batch.Filling()
		}
		for _, p := range iov {
			p = p[:min(len(p), limit-len(w.gather))]
			w.gather = append(w.gather, p...)
		}
	}
	return w.gather
}

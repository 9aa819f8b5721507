package fanout

import (
	"crypto/tls"
	"net"
	"sync"

	"github.com/rtmp-forward/forward/internal/gop"
)

// TLSClient is tls.Client for the connection of a Sender. Over plain TCP the Sender
// encrypts a batch when it would otherwise write it, and writes all the records to the
// socket in one write that does not block. So a batch needs no goroutine and no wake-up
// for each destination.
func TLSClient(c net.Conn, cfg *tls.Config) *tls.Conn {
	// During a renegotiation writes would wait for the peer.
	if rawConn(c) != nil && cfg.Renegotiation == tls.RenegotiateNever {
		c = &records{Conn: c}
	}
	return tls.Client(c, cfg)
}

// TLSServer is tls.Server for the connection of a Sender: see TLSClient.
func TLSServer(c net.Conn, cfg *tls.Config) *tls.Conn {
	if rawConn(c) != nil {
		c = &records{Conn: c}
	}
	return tls.Server(c, cfg)
}

// records is a TCP connection below TLS. Until the connection has a Sender, the records
// that TLS writes pass unchanged; after that they are kept for the Sender to send. TLS
// writes records in the order in which it has encrypted them.
type records struct {
	net.Conn

	mu      sync.Mutex
	wake    func() // tells the Sender that records are kept; nil without a Sender
	sealing bool   // the Sender is encrypting, and will take the records itself
	kept    []byte
}

// NetConn returns the TCP connection, like the method of tls.Conn.
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
	if wake != nil { // TLS answers the peer (KeyUpdate) or closes (close_notify)
		wake()
	}
	return len(p), nil
}

func (r *records) keep(wake func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake = wake
}

// begin says that the Sender is about to encrypt, and will then call take. space is
// reused for the records.
func (r *records) begin(space []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealing = true
	if len(r.kept) == 0 {
		r.kept = space[:0]
	}
}

// take returns the kept records and ends sealing.
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

// recordsOf returns the records of a connection from TLSClient or TLSServer, or nil for
// any other.
func recordsOf(c net.Conn) *records {
	if tc, ok := c.(*tls.Conn); ok {
		r, _ := tc.NetConn().(*records)
		return r
	}
	return nil
}

// seal returns what is to be written next to the socket of a TLS connection: the records
// that it has not accepted yet, or the encrypted output of plain.
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
		// Encrypted data can no longer be skipped, so it must be little.
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

// join returns the first bytes of iov in one piece, up to limit. Senders at the same
// position share the piece.
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

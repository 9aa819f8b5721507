// Package dnstest provides a DNS server for tests. Only tests import it.
package dnstest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Types and codes of RFC 1035, RFC 3596 and RFC 2782.
const (
	typeA    = 1
	typeAAAA = 28
	typeSRV  = 33

	codeServFail = 2
	codeNXDomain = 3
)

// Server answers from a table over UDP, or over TCP if the answer is too long.
type Server struct {
	conn net.PacketConn

	mu    sync.Mutex
	addrs map[string][]string
	srv   map[string][]net.SRV
	fail  bool // number of queries
}

// New returns a Server that is closed when the test ends.
func New(t testing.TB) *Server {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &Server{conn: conn}
	var wg sync.WaitGroup
	wg.Go(func() {
		query := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(query)
			if err != nil {
				return
			}
			reply := s.answer(query[:n])
			if len(reply) > 1232 {
				reply = reply[:len(query[:n])]
				reply[2] |= 2 // truncated
				clear(reply[6:12])
			}
			conn.WriteTo(reply, from)
		}
	})
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return s
}

// Set replaces the table: addresses and services by name.
func (s *Server) Set(addrs map[string][]string, srv map[string][]net.SRV) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs, s.srv = addrs, srv
}

// Fail makes the server answer every query with a server failure.
func (s *Server) Fail() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = true
}

// Resolver returns a resolver that asks only this server.
func (s *Server) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		if strings.HasPrefix(network, "udp") {
			return (&net.Dialer{}).DialContext(ctx, "udp", s.conn.LocalAddr().String())
		}
		client, server := net.Pipe()
		go s.serveStream(server)
		return client, nil
	}}
}

// serveStream answers one query in TCP framing.
func (s *Server) serveStream(c net.Conn) {
	defer c.Close()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return
	}
	reply := s.answer(query)
	c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
}

// answer builds the reply to a query with one question.
func (s *Server) answer(query []byte) []byte {
	var labels []string
	i := 12
	for query[i] != 0 {
		n := int(query[i])
		labels = append(labels, string(query[i+1:i+1+n]))
		i += 1 + n
	}
	name := strings.Join(labels, ".")
	typ := binary.BigEndian.Uint16(query[i+1:])
	question := query[12 : i+5]

	s.mu.Lock()
	defer s.mu.Unlock()
	var records [][]byte
	switch typ {
	case typeA, typeAAAA:
		for _, a := range s.addrs[name] {
			if addr := netip.MustParseAddr(a); addr.Is4() == (typ == typeA) {
				records = append(records, addr.AsSlice())
			}
		}
	case typeSRV:
		for _, r := range s.srv[name] {
			b := binary.BigEndian.AppendUint16(nil, r.Priority)
			b = binary.BigEndian.AppendUint16(b, r.Weight)
			b = binary.BigEndian.AppendUint16(b, r.Port)
			for label := range strings.SplitSeq(r.Target, ".") {
				b = append(append(b, byte(len(label))), label...)
			}
			records = append(records, append(b, 0))
		}
	}
	code := byte(0)
	if s.fail {
		code, records = codeServFail, nil
	} else if s.addrs[name] == nil && s.srv[name] == nil {
		code = codeNXDomain
	}
	reply := append([]byte{query[0], query[1], 0x81, 0x80 | code, 0, 1}, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(reply[6:], uint16(len(records)))
	reply = append(reply, question...)
	for _, data := range records {
		reply = append(reply, 0xc0, 12) // the name of the question
		reply = binary.BigEndian.AppendUint16(reply, typ)
		reply = append(reply, 0, 1, 0, 0, 0, 0) // class IN, TTL 0
		reply = binary.BigEndian.AppendUint16(reply, uint16(len(data)))
		reply = append(reply, data...)
	}
	return reply
}

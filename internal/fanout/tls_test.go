package fanout

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/chunk"
)

// tlsOver returns both ends of a connection with TLS. The first is from TLSClient.
func tlsOver(t testing.TB, a, b net.Conn, version uint16) (client, server *tls.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	client = TLSClient(a, &tls.Config{
		InsecureSkipVerify: true, MaxVersion: version, DynamicRecordSizingDisabled: true,
	})
	server = tls.Server(b, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
	})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-done)
	return client, server
}

// A peer that reads slowly gets everything in order, and then TLS's close_notify.
func TestTLS(t *testing.T) {
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			s := newStream(1 << 30)
			pool := NewPool()
			defer pool.Close()
			g := NewGroup(s.log, pool)
			a, b := tcpPair(t)
			a.(*net.TCPConn).SetWriteBuffer(32 << 10)
			b.(*net.TCPConn).SetReadBuffer(32 << 10)
			client, server := tlsOver(t, a, b, version)
			snd := newSender(client, time.Minute)
			defer snd.Wait()
			defer snd.Close()
			require.NoError(t, snd.Send(setChunkSize()))
			g.Add(snd, options, end)

			const total = 200
			written := make(chan bool)
			var got received
			var wg sync.WaitGroup
			wg.Go(func() {
				got = receive(server, func() { <-written }) // then it reads as fast as it can
			})
			for i := range total {
				size := 100 * i
				if i == total/2 {
					size = 5 << 20 // a message of many batches
				}
				s.frame(size)
				g.Wake()
			}
			require.Positive(t, snd.Stats().Lag.Messages, "what is sealed is bounded")
			close(written)
			s.log.End()
			g.End()
			wg.Wait()
			require.NoError(t, got.err, "the end is announced: without that it could be an attacker's")
			require.Equal(t, total, got.frames)
			require.Zero(t, got.gaps)
			require.EqualValues(t, total, snd.Stats().Messages)
		})
	}
}

// TLS's own records are sent between the others, in the order in which they were sealed.
func TestTLSAnswersInBetween(t *testing.T) {
	s := newStream(1 << 30)
	pool := NewPool()
	defer pool.Close()
	g := NewGroup(s.log, pool)
	a, b := tcpPair(t)
	client, server := tlsOver(t, a, b, tls.VersionTLS13)
	snd := newSender(client, time.Minute)
	defer snd.Wait()
	defer snd.Close()
	require.NoError(t, snd.Send(setChunkSize()))
	g.Add(snd, options, end)
	var got received
	var wg, answers sync.WaitGroup
	wg.Go(func() { got = receive(server, nil) })
	const n = 500
	answers.Go(func() {
		for i := range n {
			client.Write(chunk.AppendControl(nil, chunk.TypeAck, uint32(i)))
		}
	})
	for range n {
		s.frame(500)
		g.Wake()
	}
	answers.Wait()
	s.log.End()
	g.End()
	wg.Wait()
	require.NoError(t, got.err)
	require.Equal(t, n, got.frames)
	require.Equal(t, 1+n, got.control)
}

// A peer that requests answers and reads none is disconnected.
func TestTLSAnswersAreBounded(t *testing.T) {
	a, b := tcpPair(t)
	a.(*net.TCPConn).SetWriteBuffer(4 << 10)
	b.(*net.TCPConn).SetReadBuffer(4 << 10)
	client, _ := tlsOver(t, a, b, tls.VersionTLS13)
	snd := newSender(client, time.Minute)
	defer snd.Wait()
	defer snd.Close()
	var err error
	for range 10000 {
		if _, err = client.Write(make([]byte, 1000)); err != nil {
			break
		}
	}
	require.ErrorIs(t, err, ErrControl)
}

func TestTLSClosedByThePeer(t *testing.T) {
	s := newStream(1 << 30)
	pool := NewPool()
	defer pool.Close()
	g := NewGroup(s.log, pool)
	a, b := tcpPair(t)
	client, server := tlsOver(t, a, b, tls.VersionTLS13)
	snd := newSender(client, time.Minute)
	g.Add(snd, options, end)
	b.(*net.TCPConn).SetLinger(0)
	server.NetConn().Close()
	_, err := io.Copy(io.Discard, client)
	require.Error(t, err)
	for snd.Err() == nil {
		s.frame(1000)
		g.Wake()
	}
	snd.Close()
	snd.Wait()
}

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/logtest"
	"github.com/rtmp-forward/forward/internal/rtmptest"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	a := &authority{pool: x509.NewCertPool()}
	leaf := a.issue(t, "test authority", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	a.cert, a.key = leaf.Leaf, leaf.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// issue signs a certificate for a host name, itself if a has none yet.
func (a *authority) issue(t *testing.T, name string, change func(*x509.Certificate)) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(c)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// fingerprint is the value for Destination.Fingerprint.
func fingerprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func TestRTMPS(t *testing.T) {
	for _, c := range []struct {
		name   string
		server func(*tls.Config) // nil: plain RTMP
		dest   func(*forward.Destination)
		global bool   // the roots are in Config, not in the Destination
		sni    string // that the server receives
		op     string // empty: publishing
		text   string // of the error
		temp   bool
	}{
		{name: "verified", server: func(*tls.Config) {}, sni: "dest.example"},
		{name: "roots of the Config", server: func(*tls.Config) {}, global: true, sni: "dest.example"},
		{name: "TLS 1.2", server: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, sni: "dest.example"},
		{name: "TLS 1.1", server: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			sni: "dest.example", op: "tls", text: "protocol version"},
		{name: "bare address with ServerName", server: func(*tls.Config) {}, sni: "dest.example",
			dest: func(d *forward.Destination) { d.URL, d.ServerName = "rtmps://192.0.2.7/app/"+canary, "dest.example" }},
		{name: "bare address", server: func(*tls.Config) {}, op: "tls", text: "doesn't contain any IP SANs",
			dest: func(d *forward.Destination) { d.URL = "rtmps://192.0.2.7/app/" + canary }},
		{name: "ServerName of TLSConfig", server: func(*tls.Config) {}, sni: "dest.example",
			dest: func(d *forward.Destination) {
				d.ServerName, d.TLSConfig.ServerName = "other.example", "dest.example"
			}},
		{name: "unknown authority", server: func(*tls.Config) {}, sni: "dest.example", op: "tls", text: "unknown authority",
			dest: func(d *forward.Destination) { d.TLSConfig = nil }},
		{name: "another name", server: func(*tls.Config) {}, sni: "other.example", op: "tls", text: "not other.example",
			dest: func(d *forward.Destination) { d.ServerName = "other.example" }},
		{name: "expired", server: func(c *tls.Config) { c.Certificates = c.Certificates[1:] }, sni: "dest.example",
			op: "tls", text: "expired"},
		{name: "pinned", server: func(*tls.Config) {}, sni: "dest.example",
			dest: func(d *forward.Destination) { d.TLSConfig, d.Fingerprint = nil, "right" }},
		{name: "pinned, another key", server: func(*tls.Config) {}, sni: "dest.example", op: "tls", text: "Fingerprint: the SHA-256 of its key is ",
			dest: func(d *forward.Destination) { d.Fingerprint = hex.EncodeToString(make([]byte, 32)) }},
		{name: "client certificate", server: requireClient, sni: "dest.example",
			dest: func(d *forward.Destination) { d.ServerName = "client" }},
		{name: "no client certificate, TLS 1.3", server: requireClient, sni: "dest.example",
			op: "tls", text: "certificate required"},
		{name: "no client certificate, TLS 1.2", server: func(c *tls.Config) {
			requireClient(c)
			c.MaxVersion = tls.VersionTLS12
		}, sni: "dest.example", op: "tls", text: "remote error"},
		{name: "plain server", op: "tls", text: "is it rtmp://?", temp: true},
		{name: "plain client", server: func(*tls.Config) {}, op: "handshake", text: "is it rtmps://?", temp: true,
			dest: func(d *forward.Destination) { d.URL = "rtmp://dest.example:443/app/" + canary }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newAuthority(t)
				good := ca.issue(t, "dest.example", nil)
				old := ca.issue(t, "dest.example", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
				sni := ""
				var network forwardtest.Network
				l, err := network.Listen("dest")
				require.NoError(t, err)
				if c.server != nil {
					cfg := &tls.Config{
						Certificates: []tls.Certificate{good, old}, ClientCAs: ca.pool,
						GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) { sni = h.ServerName; return nil, nil },
					}
					c.server(cfg)
					l = tls.NewListener(l, cfg)
				}
				dest := forwardtest.NewDestinationAt(l)
				defer dest.Close()

				roots := &tls.Config{RootCAs: ca.pool}
				cfg := forward.Config{Dial: func(ctx context.Context, nw, addr string) (net.Conn, error) {
					if addr != "dest.example:443" && addr != "192.0.2.7:443" {
						return nil, errors.New("dialled " + addr)
					}
					return network.Dial(ctx, nw, "dest")
				}}
				d := forward.Destination{URL: "rtmps://dest.example/app/" + canary}
				if c.global {
					cfg.TLSConfig = roots
				} else {
					d.TLSConfig = roots
				}
				if c.dest != nil {
					c.dest(&d)
				}
				if d.Fingerprint == "right" {
					d.Fingerprint = fingerprint(good)
				}
				if d.ServerName == "client" {
					d.ServerName = ""
					d.TLSConfig.Certificates = []tls.Certificate{ca.issue(t, "client", nil)}
				}
				f, err := publish(t, newServer(t, cfg), "live", canary).Source().Forward(d)
				require.NoError(t, err)
				synctest.Wait()
				st := f.Stats()
				require.Equal(t, c.sni, sni)
				require.False(t, roots.DynamicRecordSizingDisabled, "the host's Config is not touched")
				if c.op == "" {
					require.NoError(t, st.LastErr)
					require.Equal(t, forward.StatePublishing, st.State)
					return
				}
				var de *forward.DestinationError
				require.ErrorAs(t, st.LastErr, &de)
				require.Equal(t, forward.Op(c.op), de.Op, "%v", de)
				require.ErrorContains(t, de, c.text)
				require.Equal(t, c.temp, de.Temporary(), "%v", de)
				require.NotContains(t, de.Error(), canary)
			})
		})
	}
}

// A reconnecting destination resumes its TLS session, and a pinned key is still
// checked. The warning about a missing check is logged once.
func TestTLSSessionsAreResumed(t *testing.T) {
	for name, c := range map[string]struct {
		dest  func(d *forward.Destination, cert tls.Certificate)
		warns int
	}{
		"verified": {func(*forward.Destination, tls.Certificate) {}, 0},
		"pinned":   {func(d *forward.Destination, cert tls.Certificate) { d.Fingerprint = fingerprint(cert) }, 0},
		"not verified": {func(d *forward.Destination, _ tls.Certificate) {
			d.TLSConfig = &tls.Config{InsecureSkipVerify: true}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var lines logtest.Buffer
			inBubble(t, forward.Config{Logger: secretscan.Logger(slog.NewTextHandler(&lines, nil))}, func(b *bubble) {
				ca := newAuthority(b.T)
				cert := ca.issue(b.T, "dest", nil)
				var resumed []bool
				l, err := b.Net.Listen("dest:443")
				require.NoError(b, err)
				dest := forwardtest.NewDestinationAt(tls.NewListener(l, &tls.Config{
					Certificates:     []tls.Certificate{cert},
					VerifyConnection: func(cs tls.ConnectionState) error { resumed = append(resumed, cs.DidResume); return nil },
				}))
				defer dest.Close()
				b.Publish("live/s")
				d := forward.Destination{URL: "rtmps://dest/live/" + canary, TLSConfig: &tls.Config{RootCAs: ca.pool}}
				c.dest(&d, cert)
				f, err := b.Server.Source("live/s").Forward(d)
				require.NoError(b, err)
				for n := range 3 {
					s := b.Published(dest, n+1)
					synctest.Wait()
					require.Equal(b, forward.StatePublishing, f.Stats().State)
					s.Close()
				}
				require.Equal(b, []bool{false, true, true}, resumed)
				require.Len(b, lines.Lines("InsecureSkipVerify"), c.warns)
			})
		})
	}
}

func requireClient(c *tls.Config) { c.ClientAuth = tls.RequireAndVerifyClientCert }

// TLS servers not written in Go may answer plain RTMP with an alert. Plain RTMP servers
// answer a ClientHello without inspecting it, or wait.
func TestHintsOfWrongScheme(t *testing.T) {
	for _, c := range []struct{ name, url, answer, text string }{
		{"TLS alert", "rtmp://dest:443/app/" + canary, "\x15\x03\x03\x00\x02\x02\x46", "closed by the destination (is it rtmps://?)"},
		{"another TLS", "rtmp://dest:443/app/" + canary, "\x15" + strings.Repeat("\x00", 1536), "version is not 3 (21) (is it rtmps://?)"},
		{"RTMP", "rtmps://dest/app/" + canary, "\x03\x00\x00\x00\x00\x00\x00\x00\x00", "first record does not look like a TLS handshake (is it rtmp://?)"},
		{"nothing, RTMP", "rtmps://dest/app/" + canary, "", "no answer within 5s (is it rtmp://?)"},
		{"nothing, TLS", "rtmp://dest:443/app/" + canary, "", "no answer within 5s (is it rtmps://?)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				states := make(chan error, 10)
				cfg := forward.Config{Hooks: forward.Hooks{OnForward: func(_ *forward.Forwarder, state forward.State, err error) {
					if state == forward.StateWaiting {
						states <- err
					}
				}}, Dial: func(context.Context, string, string) (net.Conn, error) {
					ours, theirs := forwardtest.Pipe()
					theirs.Write([]byte(c.answer))
					if c.answer != "" {
						theirs.(interface{ CloseWrite() error }).CloseWrite()
					}
					context.AfterFunc(t.Context(), func() { theirs.Close() })
					return ours, nil
				}}
				_, err := publish(t, newServer(t, cfg), "live", canary).Source().Forward(forward.Destination{URL: c.url})
				require.NoError(t, err)
				require.ErrorContains(t, <-states, c.text)
			})
		})
	}
}

// Over loopback: publishers, players and a destination with TLS.
func TestServeTLS(t *testing.T) {
	for name, serve := range map[string]func(s *forward.Server, l net.Listener, own *tls.Config) error{
		"a listener of crypto/tls": func(s *forward.Server, l net.Listener, own *tls.Config) error {
			return s.Serve(tls.NewListener(l, own))
		},
		"ServeTLS": (*forward.Server).ServeTLS,
	} {
		t.Run(name, func(t *testing.T) { testServeTLS(t, serve) })
	}
}

func testServeTLS(t *testing.T, serve func(s *forward.Server, l net.Listener, own *tls.Config) error) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ca := newAuthority(t)
	trust := &tls.Config{RootCAs: ca.pool, ServerName: "dest.example"}
	own := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "dest.example", nil)}}
	served := make(chan error, 1)
	start := func(cfg forward.Config) (s *forward.Server, host string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		s = newServer(t, cfg)
		go func() { served <- serve(s, l, own) }()
		return s, l.Addr().String()
	}
	slave, slaveHost := start(forward.Config{MergeWindow: -1})
	s, host := start(forward.Config{MergeWindow: -1, TLSConfig: trust, Resolver: forward.MustStatic("rtmps://" + slaveHost + "/live/out")})

	client := forwardtest.Client{URL: "rtmp://" + host + "/live/in", Dial: (&tls.Dialer{Config: trust}).DialContext}
	pub, err := client.Publish(ctx)
	require.NoError(t, err)
	defer pub.Close()
	client.URL = "rtmp://" + slaveHost + "/live/out"
	player, err := client.Play(ctx, nil)
	require.NoError(t, err)
	defer player.Close()
	media := forwardtest.Media{}
	sent := slices.Collect(media.Messages(2 * time.Second))
	require.NoError(t, pub.Send(ctx, slices.Values(sent), 0))
	require.NoError(t, player.Recorder().WaitFrames(ctx, 100))
	player.Recorder().Check(t)

	// A client that speaks no TLS is refused without affecting others.
	_, err = forwardtest.Client{URL: "rtmp://" + host + "/live/x"}.Publish(ctx)
	require.Error(t, err)
	for _, s := range []*forward.Server{s, slave} {
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-served, forward.ErrServerClosed)
	}
}

// The goroutine that appends a message also writes it to players of ServeTLS; no
// goroutine is started per batch.
func TestServeTLSStartsNoGoroutines(t *testing.T) {
	const players, frames = 40, 100
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ca := newAuthority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newServer(t, forward.Config{MergeWindow: -1})
	served := make(chan error, 1)
	go func() {
		served <- s.ServeTLS(l, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "dest.example", nil)}})
	}()
	pub := publish(t, s, "live", "x")
	require.NoError(t, pub.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader))
	client := forwardtest.Client{
		URL:  "rtmp://" + l.Addr().String() + "/live/x",
		Dial: (&tls.Dialer{Config: &tls.Config{RootCAs: ca.pool, ServerName: "dest.example"}}).DialContext,
	}
	var all []*forwardtest.Player
	for range players {
		p, err := client.Play(ctx, nil)
		require.NoError(t, err)
		defer p.Close()
		all = append(all, p)
	}
	created := func() uint64 {
		sample := []metrics.Sample{{Name: "/sched/goroutines-created:goroutines"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	before := created()
	for n := range frames {
		require.NoError(t, pub.WriteTag(forward.TagVideo, uint32(n)*40, rtmptest.Frame(n%10 == 0, n)))
		for _, p := range all {
			require.NoError(t, p.Recorder().WaitFrames(ctx, n+1))
		}
	}
	require.Less(t, created()-before, uint64(players*frames/10))
	require.NoError(t, s.Close())
	require.ErrorIs(t, <-served, forward.ErrServerClosed)
}

func TestServeTLSNeedsACertificate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	for _, cfg := range []*tls.Config{nil, {}} {
		require.ErrorContains(t, newServer(t, forward.Config{}).ServeTLS(l, cfg), "no certificate")
	}
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}

// records counts the TLS records of application data that are written.
type records struct {
	net.Conn
	mu    sync.Mutex
	sizes []int
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	for b := p; len(b) >= 5; { // crypto/tls writes whole records
		size := int(b[3])<<8 | int(b[4])
		if b[0] == 23 {
			r.sizes = append(r.sizes, size)
		}
		b = b[5+size:]
	}
	r.mu.Unlock()
	return r.Conn.Write(p)
}

func TestTLSRecordsAreFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		var network forwardtest.Network
		l, err := network.Listen("dest:443")
		require.NoError(t, err)
		dest := forwardtest.NewDestinationAt(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "dest", nil)}}))
		defer dest.Close()
		var rec *records
		s := newServer(t, forward.Config{Dial: func(ctx context.Context, nw, addr string) (net.Conn, error) {
			nc, err := network.Dial(ctx, nw, addr)
			rec = &records{Conn: nc}
			return rec, err
		}, TLSConfig: &tls.Config{RootCAs: ca.pool}})

		// A GOP of 200 messages of 500 bytes is in the log when the destination
		// connects; then as many come together.
		p := publish(t, s, "live", canary)
		gop := func(from int) {
			for i := range 200 {
				body := append(rtmptest.Frame(i == 0, from+i), make([]byte, 500)...)
				require.NoError(t, p.WriteTag(forward.TagVideo, uint32(from+i), body))
			}
		}
		require.NoError(t, p.WriteTag(forward.TagVideo, 0, rtmptest.VideoHeader))
		gop(0)
		f, err := p.Source().Forward(forward.Destination{URL: "rtmps://dest/app/" + canary})
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, forward.StatePublishing, f.Stats().State)
		rec.mu.Lock()
		setup := len(rec.sizes)
		rec.mu.Unlock()
		gop(200)
		time.Sleep(time.Second)
		synctest.Wait()

		rec.mu.Lock()
		defer rec.mu.Unlock()
		bytes, full := 0, 0
		for _, n := range rec.sizes {
			bytes += n
			if n > 16<<10 {
				full++
			}
		}
		require.Greater(t, bytes, 2*200*500)
		// Each batch ends with a partial record; the commands before it are small
		// records.
		require.GreaterOrEqual(t, full, bytes/(16<<10+64)-4)
		require.LessOrEqual(t, len(rec.sizes), full+16, "%v after %d", rec.sizes, setup)
		require.EqualValues(t, 401, len(dest.Sessions()[0].Recorder().Messages()))
	})
}

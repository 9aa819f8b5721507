//go:build interop

package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
)

const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

// identity is a certificate for 127.0.0.1 and the authority that signed it.
type identity struct {
	tls.Certificate
	roots *x509.CertPool
	// The PEM files of the certificate, its key and the authority.
	cert, key, ca string
}

func newIdentity(t *testing.T) *identity {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "interop authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "interop server"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	require.NoError(t, err)
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)

	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	id := &identity{
		cert: write("cert.pem", "CERTIFICATE", leafDER), key: write("key.pem", "PRIVATE KEY", keyDER),
		ca: write("ca.pem", "CERTIFICATE", caDER), roots: x509.NewCertPool(),
	}
	parsed, err := x509.ParseCertificate(caDER)
	require.NoError(t, err)
	id.roots.AddCert(parsed)
	id.Certificate, err = tls.LoadX509KeyPair(id.cert, id.key)
	require.NoError(t, err)
	return id
}

// serveTLS serves s on another port over TLS and returns its address.
func (s *server) serveTLS(t *testing.T, id *identity) string {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{id.Certificate}, SessionTicketsDisabled: true, // for librtmp
	})
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		require.ErrorIs(t, <-served, forward.ErrServerClosed)
	})
	return l.Addr().String()
}

// newFront starts nginx, which terminates TLS in front of a server, and returns its
// address.
func newFront(t *testing.T, id *identity, server string) string {
	if _, err := os.Stat(nginxStream); err != nil {
		t.Fatal("nginx has no streams: apt-get install libnginx-mod-stream")
	}
	dir, addr := t.TempDir(), freeAddr(t)
	conf := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, `
load_module %s;
daemon off;
master_process off;
pid %s/nginx.pid;
error_log stderr;
events { worker_connections 64; }
stream {
	server {
		listen %s ssl;
		ssl_certificate %s;
		ssl_certificate_key %s;
		proxy_pass %s;
	}
}
`, nginxStream, dir, addr, id.cert, id.key, server), 0o600))
	start(t, "nginx", "-p", dir, "-c", conf, "-e", "stderr")
	awaitListener(t, addr)
	return addr
}

// newForwardd builds and starts forwardd, which forwards to a server. It returns its
// addresses, the second with TLS.
func newForwardd(t *testing.T, id *identity, to string) (addr, secure string) {
	dir := t.TempDir()
	addr, secure = freeAddr(t), freeAddr(t)
	program, conf := filepath.Join(dir, "forwardd"), filepath.Join(dir, "forward.conf")
	run(t, "go", "build", "-o", program, "github.com/rtmp-forward/forward/examples/forwardd")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, `
listen %s;
rtmps {
    enabled on;
    listen  %s;
    cert    %s;
    key     %s;
}
vhost __defaultVhost__ {
    forward {
        enabled on;
        destination %s;
    }
    play {
        end_players on; # what checks the media learns of the end
    }
}
`, addr, secure, id.cert, id.key, to), 0o600))
	start(t, program, "-c", conf)
	awaitListener(t, addr)
	awaitListener(t, secure)
	return addr, secure
}

func awaitListener(t testing.TB, addr string) {
	t.Helper()
	eventually(t, "a listener at "+addr, func() bool {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			return false
		}
		nc.Close()
		return true
	})
}

// tlsPublisher publishes over TLS. ca is the file of the authority that signed the
// server's certificate; without it, the peer trusts none that did.
type tlsPublisher struct {
	name string
	// verifies: the peer checks certificates; librtmp does not.
	verifies bool
	publish  func(t *testing.T, c *clip, url, ca string) error
	muxed    func(t *testing.T, c *clip) []tag
}

var tlsPublishers = []tlsPublisher{
	tlsFFmpeg("ffmpeg"),
	{"GStreamer rtmp2sink", true, func(t *testing.T, c *clip, url, ca string) error {
		return start(t, "gst-launch-1.0", gstPipeline(c, "rtmp2sink", "location="+url, gstFlags(ca), "sync=true")...).wait()
	}, gstMuxed},
	{"librtmp (rtmpsink)", false, func(t *testing.T, c *clip, url, _ string) error {
		return start(t, "gst-launch-1.0", gstPipeline(c, "rtmpsink", "location="+url+" live=1", "sync=true")...).wait()
	}, gstMuxed},
}

func tlsFFmpeg(program string) tlsPublisher {
	return tlsPublisher{"ffmpeg " + ffmpegVersion(program), true, func(t *testing.T, c *clip, url, ca string) error {
		return ffmpegPublish(t, program, c, url, ffmpegFlags(ca)...)
	}, nil}
}

// tlsPlayer is the same for players.
type tlsPlayer struct {
	name     string
	verifies bool
	rule     rule
	play     func(t *testing.T, url, ca string) ([]tag, error)
}

var tlsPlayers = []tlsPlayer{
	tlsFFplay("ffmpeg"),
	{"GStreamer rtmp2src", true, rule{cut: 3}, func(t *testing.T, url, ca string) ([]tag, error) {
		return recorded(t, "gst-launch-1.0", func(out string) []string {
			return []string{"-q", "rtmp2src", "location=" + url, gstFlags(ca), "!", "filesink", "location=" + out}
		})
	}},
	{"librtmp (rtmpdump)", false, rule{}, func(t *testing.T, url, _ string) ([]tag, error) {
		return rtmpdump(t, url)
	}},
}

func tlsFFplay(program string) tlsPlayer {
	return tlsPlayer{"ffmpeg " + ffmpegVersion(program), true, rule{}, func(t *testing.T, url, ca string) ([]tag, error) {
		return ffmpegPlay(t, program, url, ffmpegFlags(ca)...)
	}}
}

func ffmpegFlags(ca string) []string {
	if ca == "" {
		return []string{"-tls_verify", "1"}
	}
	return []string{"-tls_verify", "1", "-ca_file", ca}
}

// gstFlags selects GStreamer's certificate checks. It trusts only the system's
// authorities: for a certificate of another authority it must accept unknown ones.
func gstFlags(ca string) string {
	if ca == "" {
		return "tls-validation-flags=validate-all"
	}
	return "tls-validation-flags=bad-identity+not-activated+expired+revoked+insecure"
}

// TestRTMPS sends a clip over TLS to forwardd, from our own forwarder to a server of
// ours and to nginx in front of nginx-rtmp, and to players. Peers that verify
// certificates refuse one of an unknown authority.
func TestRTMPS(t *testing.T) {
	needAll(t)
	c, id := h264aac(t), newIdentity(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	w := &world{t: t, c: c, ctx: ctx, ended: make(chan struct{})}
	w.slave, w.nginx = newServer(t, forward.Config{}), newNginx(t, "")
	secure, front := w.slave.serveTLS(t, id), newFront(t, id, w.nginx.addr)
	daemon, daemonTLS := newForwardd(t, id, w.slave.addr)
	w.master = newServer(t, forward.Config{
		Resolver:  forward.MustStatic("rtmps://"+secure+"/live", "rtmps://"+front+"/live"),
		TLSConfig: &tls.Config{RootCAs: id.roots},
	})

	for _, p := range tlsPlayers {
		w.player(player{p.name, anything, p.rule, func(t *testing.T, _ *clip, url string, _ <-chan struct{}) ([]tag, error) {
			return p.play(t, url, id.ca)
		}}, "rtmps://"+secure+"/live/inside", p.rule, playsTLS, p.name, nil)
	}
	w.raw(w.slave.addr, "live", "inside", destinationTLS, "forward", checkAll)
	w.raw(w.nginx.addr, "live", "inside", destinationTLS, "nginx, nginx-rtmp", ruled)
	for i, p := range tlsPublishers {
		want := c.tags
		if p.muxed != nil {
			want = p.muxed(t, c)
		}
		w.published(daemon, fmt.Sprint("from-", i), publishesTLS, p.name, want, rule{})
	}
	w.awaitRaw()
	eventually(t, "the players at the slave", func() bool {
		return w.slave.plays.Load() == int64(len(tlsPlayers)+1+len(tlsPublishers))
	})
	w.nginx.logged(t, "play: name='inside'", 1)
	for i, p := range tlsPublishers {
		w.wg.Go(func() {
			if err := p.publish(t, c, fmt.Sprint("rtmps://", daemonTLS, "/live/from-", i), id.ca); err != nil {
				t.Errorf("%s publishes: %v", p.name, err)
			}
		})
	}
	err := w.master.publish(t, "inside", c, func() {}, func(uint32) {})
	close(w.ended)
	require.NoError(t, err)
	w.wg.Wait()
}

// TestRefusedCertificate shows every peer that verifies certificates one of an unknown
// authority.
func TestRefusedCertificate(t *testing.T) {
	needAll(t)
	c := h264aac(t)
	var published atomic.Int64
	s := newServer(t, forward.Config{Hooks: forward.Hooks{OnPublish: func(context.Context, *forward.Request) error {
		published.Add(1)
		return nil
	}}})
	addr := s.serveTLS(t, newIdentity(t))
	url := "rtmps://" + addr + "/live/cam"
	refused := func(role, name string, err error) {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Exited() && published.Load() == 0 && s.plays.Load() == 0 {
			err = nil
		} else {
			err = fmt.Errorf("%s %s, though it does not know the certificate: %w", name, role, err)
		}
		table.set(role+", certificate refused", name, c, err)
		require.NoError(t, err)
	}
	for _, p := range tlsPublishers {
		if p.verifies {
			refused(publishesTLS, p.name, p.publish(t, c, url, ""))
		}
	}
	for _, p := range tlsPlayers {
		if p.verifies {
			_, err := p.play(t, url, "")
			refused(playsTLS, p.name, err)
		}
	}

	from := newServer(t, forward.Config{Resolver: forward.MustStatic("rtmps://" + addr + "/live")})
	p, err := from.Publish(t.Context(), forward.Request{App: "live", Stream: "cam"})
	require.NoError(t, err)
	defer p.Close()
	f := p.Source().Forwarders()[0]
	eventually(t, "our refusal", func() bool { return f.Stats().LastErr != nil })
	require.ErrorContains(t, f.Stats().LastErr, "unknown authority")
	require.Zero(t, published.Load())
	table.set(publishesTLS+", certificate refused", "forward", c, nil)
}

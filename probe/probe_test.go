package probe_test

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
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/internal/hosttest"
	"github.com/rtmp-forward/forward/internal/secretscan"
	"github.com/rtmp-forward/forward/probe"
)

const canary = secretscan.Canary

// steps changes one answer of a destination.
func steps(name string, s forwardtest.Step) []forwardtest.Script {
	return []forwardtest.Script{{Steps: map[string]forwardtest.Step{name: s}}}
}

// hangsUp ends the connection instead of answering.
var hangsUp = forwardtest.Step{Do: func(s *forwardtest.Session) { s.Close() }}

// answers sends bytes instead of the answer to the handshake.
func answers(b string) forwardtest.Step {
	return forwardtest.Step{Do: func(s *forwardtest.Session) { s.Write([]byte(b)) }}
}

// redirects answers connect with a redirect.
func redirects(to string) []forwardtest.Script {
	return steps("connect", forwardtest.Step{Do: func(s *forwardtest.Session) {
		s.Send(0, "_error", 1, nil, map[string]any{"level": "error", "code": "NetConnection.Connect.Rejected", "description": "moved",
			"ex": map[string]any{"code": 302, "redirect": to}})
	}})
}

func rejects(description string) forwardtest.Script {
	return steps("connect", forwardtest.Step{Refuse: "NetConnection.Connect.Rejected", Description: description})[0]
}

// certificate returns a certificate that is signed by itself.
func certificate(t *testing.T, name string, until time.Duration) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(until),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// trusting is a configuration that trusts a certificate.
func trusting(c tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(c.Leaf)
	return &tls.Config{RootCAs: roots}
}

func fingerprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// world has a destination at a.example:1935, and the same over TLS at a.example:443.
type world struct {
	*testing.T
	network    *forwardtest.Network
	plain, tls *forwardtest.Destination
	server     *forward.Server
	cert       tls.Certificate
	dest       forward.Destination
	config     forward.Config
}

// inWorld probes a destination in virtual time, after prepare has changed the world.
func inWorld(t *testing.T, scripts []forwardtest.Script, prepare func(*world), check func(*world, *probe.Report)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, network: new(forwardtest.Network)}
		w.cert = certificate(t, "a.example", 365*24*time.Hour)
		w.dest = forward.Destination{URL: "rtmp://a.example/live", StreamKey: canary, TLSConfig: trusting(w.cert)}
		w.config = forward.Config{Dial: w.network.Dial}
		if prepare != nil {
			prepare(w)
		}
		w.plain = w.network.NewDestination("a.example:1935", scripts...)
		defer w.plain.Close()
		l, err := w.network.Listen("a.example:443")
		require.NoError(t, err)
		w.tls = forwardtest.NewDestinationAt(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{w.cert}}), scripts...)
		defer w.tls.Close()
		w.server = hosttest.NewServer(t, w.config)
		var told []probe.Step
		r := probe.Run(t.Context(), w.server, w.dest, func(s probe.Step) { told = append(told, s) })
		require.Equal(t, r.Steps, told)
		require.Equal(t, r.Err == nil, r.Accepted)
		secretscan.Check(t.Name(), r, fmt.Sprintf("%+v", r))
		for _, s := range r.Steps {
			t.Log(s.OK, s.Op, s.Took, s.Text, s.Said)
			require.NotEmpty(t, s.Text, s.Op)
			require.GreaterOrEqual(t, s.Took, time.Duration(0))
			require.LessOrEqual(t, s.Took, r.Took)
		}
		t.Log(r.Verdict)
		check(w, r)
	})
}

// Each fault of a destination gives the sentences that say what is wrong and what to do.
func TestFaultsAreExplained(t *testing.T) {
	dialError := func(err error) func(*world) {
		return func(w *world) {
			w.config.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, err }
		}
	}
	overTLS := func(change func(*world)) func(*world) {
		return func(w *world) {
			w.dest.URL = "rtmps://a.example/live"
			if change != nil {
				change(w)
			}
		}
	}
	withUser := func(w *world) { w.dest.User, w.dest.Password = "jo", "password-"+canary }
	for _, row := range []struct {
		name    string
		scripts []forwardtest.Script
		prepare func(*world)
		op      forward.Op
		verdict string
		said    string
	}{
		{"unknown host", nil, dialError(&net.DNSError{Err: "no such host", Name: "a.example", IsNotFound: true}), forward.OpResolve,
			"The name a.example does not exist or has no address. Check the host in the URL.", ""},
		{"name server is silent", nil, dialError(&net.DNSError{Err: "i/o timeout", Name: "a.example", IsTimeout: true}), forward.OpResolve,
			"The name server did not answer the question for a.example in time. Check the network and the name server of this machine.", ""},
		{"connection refused", nil, dialError(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), forward.OpDial,
			"a.example:1935 refuses connections. Check host and port, and whether the server is running: nothing listens on this port, or a firewall rejects the connection.", ""},
		{"no route", nil, dialError(&net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH}), forward.OpDial,
			"This machine has no route to a.example:1935. Check the network of this machine, and the address.", ""},
		{"no answer", nil, func(w *world) {
			w.config.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}, forward.OpDial, "There was no answer from a.example:1935 within 5 s. Check host and port, and whether a firewall drops the connection.", ""},
		{"address not allowed", nil, func(w *world) { w.dest.URL, w.dest.NoLinkLocal = "rtmp://169.254.169.254/live", true }, forward.OpDial,
			"The address of the destination is not allowed: 169.254.169.254:1935: a link-local address, refused unless Config.AllowNetworks holds 169.254.169.254/32. If it is right, allow it in the configuration of this server.", ""},

		{"port speaks TLS", steps("handshake", answers("\x15\x03\x01\x00\x02\x02\x46")), nil, forward.OpHandshake,
			"The server at a.example:1935 speaks TLS. Use rtmps:// in the URL.", ""},
		{"port speaks HTTP", steps("handshake", answers("HTTP/1.1 400 Bad Request\r\n\r\n")), nil, forward.OpHandshake,
			"The server at a.example:1935 speaks HTTP, not RTMP. Use the port of its RTMP server: usually 1935 for rtmp:// and 443 for rtmps://.", ""},
		{"port speaks HTTP without headers", steps("handshake", answers("<html>"+strings.Repeat(" ", 2000))), nil, forward.OpHandshake,
			"The server at a.example:1935 speaks HTTP, not RTMP. Use the port of its RTMP server: usually 1935 for rtmp:// and 443 for rtmps://.", ""},
		{"port speaks something else", steps("handshake", answers("SSH-2.0-OpenSSH_9.2\r\n")), nil, forward.OpHandshake,
			"The server at a.example:1935 does not speak RTMP. Check host and port.", ""},
		{"handshake not answered", steps("handshake", forwardtest.Step{Silent: true}), nil, forward.OpHandshake,
			"The server at a.example:1935 did not answer the RTMP handshake within 5 s. Check that the port is that of an RTMP server. If it is for TLS, use rtmps:// in the URL.", ""},
		{"handshake broken off", steps("handshake", hangsUp), nil, forward.OpHandshake,
			"The server at a.example:1935 ended the connection during the RTMP handshake. Check that the port is that of an RTMP server. If it is for TLS, use rtmps:// in the URL.", ""},

		{"port of TLS", steps("handshake", hangsUp), func(w *world) { w.dest.URL = "rtmp://a.example:443/live" }, forward.OpHandshake,
			"The server at a.example:443 ended the connection during the RTMP handshake. Use rtmps:// in the URL: port 443 is usually for TLS.", ""},
		{"port does not speak TLS", steps("handshake", hangsUp), overTLS(func(w *world) { w.dest.URL = "rtmps://a.example:1935/live" }), forward.OpTLS,
			"The server at a.example:1935 ended the connection during the TLS handshake. If the port is not for TLS, use rtmp:// in the URL.", ""},
		{"certificate expired", nil, overTLS(func(w *world) {
			w.cert = certificate(w.T, "a.example", -time.Hour)
			w.dest.TLSConfig = trusting(w.cert)
		}), forward.OpTLS, "The certificate of the server expired on 1999-12-31. The operator of the server must renew it. If you trust this server, set the fingerprint of the destination to that of its key: KEY.", ""},
		{"certificate not valid yet", nil, overTLS(func(w *world) {
			w.dest.TLSConfig.Time = func() time.Time { return time.Now().Add(-1000 * time.Hour) }
		}), forward.OpTLS, "The certificate of the server is not valid before 1999-12-30. Check the clock of this machine.", ""},
		{"unknown authority", nil, overTLS(func(w *world) { w.dest.TLSConfig = nil }), forward.OpTLS,
			`The certificate of the server comes from "a.example", which this machine does not trust. If you trust this server, set the fingerprint of the destination to that of its key: KEY.`, ""},
		{"wrong name", nil, overTLS(func(w *world) { w.dest.ServerName = "b.example" }), forward.OpTLS,
			`The certificate of the server is for "a.example", and not for b.example. Use a name of the certificate in the URL, or set it as the server name of the destination.`, ""},
		{"pin differs", nil, overTLS(func(w *world) { w.dest.Fingerprint = strings.Repeat("00", 32) }), forward.OpTLS,
			"The public key of the server is not the one of the fingerprint: its SHA-256 is KEY. If the operator of the server confirms the new key, change the fingerprint. If not, another server may have answered.", ""},

		{"user required", []forwardtest.Script{rejects("[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] : ")}, nil, forward.OpConnect,
			"The server requires a user and a password. Set both for the destination.", "NetConnection.Connect.Rejected: [ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] :"},
		{"password refused", []forwardtest.Script{rejects("[ code=403 need auth; authmod=adobe ] : "), rejects("[ authmod=adobe ] : ?reason=needauth&user=jo&salt=s&opaque=o"),
			rejects("[ authmod=adobe ] : ?reason=authfailed&opaque=o")}, withUser, forward.OpConnect,
			"The server refuses the user or the password. Check both.", "NetConnection.Connect.Rejected: [ authmod=adobe ] : ?reason=authfailed&opaque=o"},
		{"app refused", steps("connect", forwardtest.Step{Refuse: "NetConnection.Connect.InvalidApp", Description: "no \x1b[31m\u202esuch\napp " + canary}), nil, forward.OpConnect,
			"The server refuses the app (NetConnection.Connect.InvalidApp). Check the app, which is the part of the URL before the stream key.", "NetConnection.Connect.InvalidApp: no  [31msuch app ***"},
		{"connect not answered", steps("connect", forwardtest.Step{Silent: true}), nil, forward.OpConnect,
			"The server did not answer connect within 5 s. It may be waiting for its own backend: ask its operator.", ""},
		{"connect broken off", steps("connect", hangsUp), nil, forward.OpConnect,
			"The server ended the connection instead of answering connect. Check the app, which is the part of the URL before the stream key: some servers do this for an app that they do not know.", ""},
		{"redirect loop", redirects("rtmp://a.example/live"), nil, forward.OpConnect,
			"The server has redirected more than 3 times, the last time to rtmp://a.example/live/***. It may redirect in a circle: ask its operator for the right URL.", "NetConnection.Connect.Rejected: moved"},
		{"redirect to another host", redirects("rtmp://b.example/live?t=" + canary), nil, forward.OpConnect,
			"The server redirects to rtmp://b.example/live?***/***, which is not followed: another host, to which Destination.Redirect does not allow to go. Use that URL, or let the destination follow such redirects.", "NetConnection.Connect.Rejected: moved"},

		{"createStream refused", steps("createStream", forwardtest.Step{Refuse: "NetConnection.Call.Failed"}), nil, forward.OpCreateStream,
			"The server refuses the publish (NetConnection.Call.Failed). Check the stream key. If it is right, another encoder may be publishing with it now.", "NetConnection.Call.Failed"},
		{"stream key refused", steps("publish", forwardtest.Step{Refuse: "NetStream.Publish.BadName", Description: "Already publishing " + canary}), nil, forward.OpPublish,
			"The server refuses the stream key (NetStream.Publish.BadName). Check the stream key. If it is right, another encoder may be publishing with it now.", "NetStream.Publish.BadName: Already publishing ***"},
		{"publish refused with odd words", steps("publish", forwardtest.Step{Refuse: "<b>" + canary + "</b>", Description: strings.Repeat("ä", 500)}), nil, forward.OpPublish,
			"The server refuses the publish. Check the stream key. If it is right, another encoder may be publishing with it now.", "<b>***</b>: " + strings.Repeat("ä", 120) + "…"},
		{"publish not answered", steps("publish", forwardtest.Step{Silent: true}), nil, forward.OpPublish,
			"The server did not answer publish within 35 s. It may be waiting for its own backend: ask its operator, or allow it more time.", ""},
		{"closed after the acceptance", steps("publish", forwardtest.Step{Do: func(s *forwardtest.Session) {
			s.Status("NetStream.Publish.Start", "Publishing.")
			s.Close()
		}}), nil, forward.OpRead,
			"The server has accepted the publish, and then ended the connection. Some servers do this when they refuse a stream key or a client. Check the stream key. If it is right, another encoder may be publishing with it now.", ""},
		{"refused after the acceptance", steps("publish", forwardtest.Step{Do: func(s *forwardtest.Session) {
			s.Status("NetStream.Publish.Start", "Publishing.")
			s.Send(1, "onStatus", 0, nil, map[string]any{"level": "error", "code": "NetStream.Publish.Denied", "description": "not you"})
		}}), nil, forward.OpRead,
			"The server has accepted the publish, and then refused it (NetStream.Publish.Denied). Check the stream key. If it is right, another encoder may be publishing with it now.", "NetStream.Publish.Denied: not you"},
		{"publish broken off", steps("publish", hangsUp), nil, forward.OpPublish,
			"The server ended the connection instead of answering publish. Check the stream key: some servers do this when they refuse one. The key may also be in use, or used up.", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			inWorld(t, row.scripts, row.prepare, func(w *world, r *probe.Report) {
				require.False(t, r.Accepted)
				require.Equal(t, strings.ReplaceAll(row.verdict, "KEY", fingerprint(w.cert)), r.Verdict)
				var de *forward.DestinationError
				require.ErrorAs(t, r.Err, &de)
				require.Equal(t, row.op, de.Op)
				last := r.Steps[len(r.Steps)-1]
				if strings.HasPrefix(row.name, "redirect") {
					row.op = probe.OpRedirect
				}
				require.Equal(t, row.op, last.Op)
				require.False(t, last.OK)
				require.Equal(t, row.said, last.Said)
				require.True(t, strings.HasPrefix(r.Verdict, last.Text), last.Text)
			})
		})
	}
}

func texts(r *probe.Report) (texts []string) {
	for _, s := range r.Steps {
		texts = append(texts, s.Text)
	}
	return texts
}

// A destination that accepts sees a publish that ends immediately, without media, and a
// connection that is closed properly.
func TestDestinationAccepts(t *testing.T) {
	inWorld(t, nil, nil, func(w *world, r *probe.Report) {
		require.True(t, r.Accepted)
		require.Equal(t, "The destination has accepted the publish.", r.Verdict)
		require.Equal(t, "rtmp://a.example/live/***", r.Destination)
		require.Empty(t, r.Warnings)
		require.Equal(t, []string{
			"Connected to a.example:1935.", "The RTMP handshake without digests succeeded.",
			"The server has accepted the app. It lists no codecs.", "The server has made a message stream.",
			"The server has accepted the publish.", "Left without sending media.",
		}, texts(r))
		require.Equal(t, "NetStream.Publish.Start: Publishing.", r.Steps[4].Said)
		s := w.plain.Sessions()[0]
		<-s.Done()
		require.ErrorIs(t, s.Err(), io.EOF)
		require.Equal(t, []string{"connect", "releaseStream", "FCPublish", "createStream", "publish", "FCUnpublish", "deleteStream"}, hosttest.CommandNames(s))
		require.Empty(t, s.Recorder().Messages())
		require.Less(t, r.Took, time.Second)
	})
}

func TestStepsThatSucceed(t *testing.T) {
	for _, row := range []struct {
		name    string
		scripts []forwardtest.Script
		prepare func(*world)
		want    string // one of the texts
	}{
		{"certificate", nil, func(w *world) { w.dest.URL = "rtmps://a.example/live" },
			`TLS 1.3. The certificate is for "a.example", comes from "a.example" and is valid until 2000-12-31.`},
		{"certificate that expires soon", nil, func(w *world) {
			w.dest.URL, w.cert = "rtmps://a.example/live", certificate(w.T, "a.example", 50*time.Hour)
			w.dest.TLSConfig = trusting(w.cert)
		}, `TLS 1.3. The certificate is for "a.example", comes from "a.example" and is valid until 2000-01-03. It expires in 2 days.`},
		{"pin", nil, func(w *world) {
			w.dest.URL, w.dest.TLSConfig, w.dest.Fingerprint = "rtmps://a.example/live", nil, fingerprint(w.cert)
		}, `TLS 1.3. The certificate is for "a.example", comes from "a.example" and is valid until 2000-12-31. Its public key has the fingerprint of the destination; nothing else of it was checked.`},
		{"not verified", nil, func(w *world) {
			w.dest.URL, w.dest.TLSConfig = "rtmps://a.example/live", &tls.Config{InsecureSkipVerify: true}
		}, `TLS 1.3. The certificate is for "a.example", comes from "a.example" and is valid until 2000-12-31. It was not checked, because the host's TLS configuration says so.`},
		{"digests", []forwardtest.Script{{Steps: map[string]forwardtest.Step{"handshake": hangsUp}}, {}}, nil, "The RTMP handshake with digests succeeded."},
		{"codecs", steps("connect", forwardtest.Step{Do: func(s *forwardtest.Session) {
			s.Send(0, "_result", 1, map[string]any{"fourCcList": []any{"av01", "hvc1", "mp4a", "\x1b[2J", "Opus"}},
				map[string]any{"level": "status", "code": "NetConnection.Connect.Success", "description": "ok"})
		}}), nil, "The server has accepted the app. It lists the video codecs av01, hvc1, and the audio codecs mp4a, Opus."},
		{"all codecs", steps("connect", forwardtest.Step{Do: func(s *forwardtest.Session) {
			s.Send(0, "_result", 1, map[string]any{"fourCcList": []any{"*"}},
				map[string]any{"level": "status", "code": "NetConnection.Connect.Success", "description": "ok"})
		}}), nil, "The server has accepted the app. It takes all codecs of Enhanced RTMP."},
		{"password", []forwardtest.Script{rejects("code=403 need auth; authmod=adobe ] : "), rejects("authmod=adobe ] : ?reason=needauth&user=jo&salt=s&opaque=o"), {}},
			func(w *world) { w.dest.User, w.dest.Password = "jo", "password-"+canary }, "The server has sent a challenge for the password."},
		{"redirect", append(redirects("rtmp://a.example/other"), forwardtest.Script{}), nil, "The redirect to rtmp://a.example/other/*** is followed."},
	} {
		t.Run(row.name, func(t *testing.T) {
			inWorld(t, row.scripts, row.prepare, func(w *world, r *probe.Report) {
				require.True(t, r.Accepted, r.Verdict)
				require.Contains(t, texts(r), row.want)
			})
		})
	}
}

// Each step has its own time.
func TestStepsHaveTheirTimes(t *testing.T) {
	slow := forwardtest.Script{Steps: map[string]forwardtest.Step{
		"handshake": {Delay: time.Second}, "connect": {Delay: 2 * time.Second}, "createStream": {Delay: 3 * time.Second}, "publish": {Delay: 4 * time.Second},
	}}
	inWorld(t, []forwardtest.Script{slow}, nil, func(w *world, r *probe.Report) {
		require.True(t, r.Accepted)
		for i, want := range []time.Duration{0, 1, 2, 3, 4} {
			require.Equal(t, want*time.Second, r.Steps[i].Took, r.Steps[i].Op)
		}
		require.Equal(t, 10*time.Second+r.Steps[5].Took, r.Took)
	})
}

// A destination that is refused before anything is sent has no step.
func TestNothingIsTried(t *testing.T) {
	inWorld(t, nil, func(w *world) { w.dest.URL = "rtmp://a.example:0/live" }, func(w *world, r *probe.Report) {
		require.Empty(t, r.Steps)
		require.Equal(t, "Destination rtmp://***: bad port. Correct the destination.", r.Verdict)
	})
}

// A probe ends with its context.
func TestProbeIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network forwardtest.Network
		d := network.NewDestination("a.example:1935", steps("publish", forwardtest.Step{Silent: true})...)
		defer d.Close()
		srv := hosttest.NewServer(t, forward.Config{Dial: network.Dial})
		for _, row := range []struct {
			end     func(context.Context) (context.Context, context.CancelFunc)
			verdict string
		}{
			{func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, time.Second)
			}, "The time for the whole probe is over. Allow it more time."},
			{func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			}, "The probe was cancelled."},
		} {
			ctx, cancel := row.end(t.Context())
			r := probe.Run(ctx, srv, forward.Destination{URL: "rtmp://a.example/live", StreamKey: canary}, nil)
			cancel()
			require.Equal(t, row.verdict, r.Verdict)
			require.Equal(t, time.Second, r.Took)
		}
	})
}

func TestWarnings(t *testing.T) {
	starts := " may start a broadcast, and tell viewers, when an encoder connects. A probe is such a connection, although it sends no media and leaves within a second."
	for url, want := range map[string][]string{
		"a.rtmps.youtube.com":                          {"YouTube" + starts},
		"rtmp://a.rtmp.youtube.com/live2":              {"YouTube" + starts},
		"rtmps://live-api-s.facebook.com:443/rtmp/":    {"Facebook" + starts},
		"rtmp://live.twitch.tv/app":                    {"Twitch" + starts},
		"rtmps://fa7.global-contribute.live-video.net": {"Amazon IVS (Kick, Twitch)" + starts},
		"rtmp://a.example/live":                        nil,
		"rtmp://a.example/" + strings.Repeat("a", 300): {"The app is 300 bytes long; nginx-rtmp and those made from it take only the first 255."},
		"no URL": nil,
	} {
		require.Equal(t, want, probe.Warnings(forward.Destination{URL: url, StreamKey: canary}), url)
	}
}

// The default dialer tells the look-up of the name and the connection apart.
func TestOverLoopback(t *testing.T) {
	d := forwardtest.NewDestination()
	defer d.Close()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimSuffix(d.URL(""), "/"), "rtmp://"))
	require.NoError(t, err)
	srv := hosttest.NewServer(t, forward.Config{})
	r := probe.Run(t.Context(), srv, forward.Destination{URL: "rtmp://localhost:" + port + "/live", StreamKey: canary}, nil)
	require.True(t, r.Accepted, r.Verdict)
	require.Equal(t, forward.OpResolve, r.Steps[0].Op)
	require.Contains(t, r.Steps[0].Text, "127.0.0.1")
	require.Equal(t, "Connected to 127.0.0.1:"+port+".", r.Steps[1].Text)
}

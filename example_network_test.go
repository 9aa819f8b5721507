package forward_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/netip"
	"time"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
	"github.com/rtmp-forward/forward/resolve"
)

// A publisher names where its stream goes. Of private addresses it may name those
// that AllowNetworks holds.
func ExampleConfig_allowNetworks() {
	refused := make(chan error, 1)
	srv := forward.NewServer(quietly(forward.Config{
		Resolver:      resolve.FromParam("to", "10.0.0.0/8"),
		AllowNetworks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")},
		Hooks: forward.Hooks{
			OnForward: func(_ *forward.Forwarder, state forward.State, err error) {
				if state == forward.StateWaiting {
					refused <- err
				}
			},
		},
		Dial: new(forwardtest.Network).Dial,
	}))
	defer srv.Close()
	_, err := srv.Publish(context.Background(), forward.Request{
		App: "live", Stream: "cam", Param: "?to=rtmp://10.1.0.7/live/cam",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	var address *forward.AddressError
	if errors.As(<-refused, &address) {
		fmt.Println(address.Addr, "needs", address.Allow)
	}
	// Output: 10.1.0.7:1935 needs 10.1.0.7/32
}

func ExampleServer_ServeTLS() {
	cert, err := tls.LoadX509KeyPair("cert.pem", "key.pem")
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", ":443")
	if err != nil {
		log.Fatal(err)
	}
	srv := forward.NewServer(forward.Config{})
	log.Fatal(srv.ServeTLS(l, &tls.Config{
		Certificates:           []tls.Certificate{cert},
		SessionTicketsDisabled: true, // for librtmp with GnuTLS
	}))
}

// A master pushes to a slave over RTMPS, in memory.
func ExampleServer_ServeTLS_inMemory() {
	var network forwardtest.Network
	cert, roots, err := selfSigned("slave.example")
	if err != nil {
		fmt.Println(err)
		return
	}
	arrived := make(chan string, 1)
	slave := forward.NewServer(quietly(forward.Config{
		Hooks: forward.Hooks{
			OnPublish: func(_ context.Context, req *forward.Request) error {
				arrived <- req.Name()
				return nil
			},
		},
	}))
	defer slave.Close()
	inner, err := network.Listen("slave.example:443")
	if err != nil {
		fmt.Println(err)
		return
	}
	go slave.ServeTLS(inner, &tls.Config{Certificates: []tls.Certificate{cert}})

	master := forward.NewServer(quietly(forward.Config{
		Resolver:  forward.MustStatic("rtmps://slave.example/live"),
		TLSConfig: &tls.Config{RootCAs: roots},
		Dial:      network.Dial,
	}))
	defer master.Close()
	if _, err := master.Publish(context.Background(), forward.Request{App: "in", Stream: "cam"}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(<-arrived)
	// Output: live/cam
}

// selfSigned makes a certificate for a name, and the pool that accepts it.
func selfSigned(name string) (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots, nil
}

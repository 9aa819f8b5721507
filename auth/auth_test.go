package auth

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/internal/secretscan"
)

func TestTokenCheck(t *testing.T) {
	token := Token{Secrets: []forward.Secret{"old", "", "new+1"}}
	for _, tt := range []struct {
		param, tcURL string
		want         string // part of the error
	}{
		{"?token=old", "", ""},
		{"?a=b&token=new+1", "", ""},
		{"?token=new%2B1&c", "", ""},
		{"?token=old", "rtmp://h/live?token=old", ""},
		{"", "", "no parameter token"},
		{"?x=old", "", "no parameter token"},
		{"?Token=old", "", "no parameter token"},
		{"?token", "", "parameter token is wrong"},
		{"?token=", "", "parameter token is wrong"},
		{"?token=" + secretscan.Canary, "", "parameter token is wrong"},
		{"?token=old%20", "", "parameter token is wrong"},
		{"?token=" + secretscan.Canary + "%zz", "", "bad percent-encoding"},
		{"?token=old&token=" + secretscan.Canary, "", "given twice"},
		{"?token=old&token=old", "", "given twice"},
		{"?token=old&%74oken=old", "", "given twice"},
		{"?token=old", "rtmp://h/live?token=" + secretscan.Canary, "given twice"},
		{"?token=old", "rtmp://h/live?token=old&token=old", "given twice"},
		{"?token=old", "rtmp://h/live?token=" + secretscan.Canary + "%", "bad percent-encoding"},
		{"", "rtmp://h/live?token=old", "no parameter token"},
	} {
		err := token.Check(&forward.Request{Param: tt.param, TcURL: tt.tcURL})
		if tt.want == "" {
			require.NoError(t, err, tt.param)
			continue
		}
		require.ErrorIs(t, err, ErrToken, tt.param)
		require.ErrorContains(t, err, tt.want, tt.param)
		require.NotContains(t, err.Error(), secretscan.Canary)
		secretscan.Check("an error of Check", err)
	}
	require.NoError(t, Token{Secrets: []forward.Secret{"x"}, Param: "key"}.Check(&forward.Request{Param: "?key=x"}))
	require.ErrorIs(t, Token{}.Check(&forward.Request{Param: "?token="}), ErrToken)
	require.ErrorIs(t, Token{Secrets: []forward.Secret{""}}.Check(&forward.Request{Param: "?token="}), ErrToken)
}

func TestTokenIsPrintedWithoutSecrets(t *testing.T) {
	token := Token{Secrets: []forward.Secret{secretscan.Canary}}
	secretscan.Check("a Token", token, &token)
	require.Equal(t, "Token with 1 secrets", fmt.Sprint(token))
}

func TestTokenSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands at 2000-01-01
		token := Token{Secrets: []forward.Secret{"k"}, Purpose: "publish"}
		expires := time.Now().Add(time.Minute)
		query, err := token.Sign("live/s", expires)
		require.NoError(t, err)
		// printf 'publish\0live/s\0946684860' | openssl dgst -sha256 -hmac k
		require.Equal(t, "expires=946684860&sign=be4952fec8d13fdd1e4f9b0bc650ae6e7f0680391f50f101ec0b86ff378ac52c", query)

		req := func(param string) *forward.Request {
			return &forward.Request{Vhost: forward.DefaultVhost, App: "live", Stream: "s", Param: param}
		}
		require.NoError(t, token.Verify(req("?"+query)))
		require.NoError(t, token.Verify(req("?x=y&"+query)))
		rotated := Token{Secrets: []forward.Secret{"k2", "k"}, Purpose: "publish"}
		require.NoError(t, rotated.Verify(req("?"+query)), "signed before the secret was replaced")

		other := req("?" + query)
		other.Stream = "s2"
		vhost := req("?" + query)
		vhost.Vhost = "v"
		for _, tt := range []struct {
			name  string
			token Token
			req   *forward.Request
			want  string
		}{
			{"another stream", token, other, "sign is wrong"},
			{"another vhost", token, vhost, "sign is wrong"},
			{"another purpose", Token{Secrets: token.Secrets, Purpose: "play"}, req("?" + query), "sign is wrong"},
			{"another secret", Token{Secrets: []forward.Secret{"k2", ""}, Purpose: "publish"}, req("?" + query), "sign is wrong"},
			{"no secret", Token{Purpose: "publish"}, req("?" + query), "sign is wrong"},
			{"another time", token, req("?expires=946684861&" + query[len("expires=946684860&"):]), "sign is wrong"},
			{"no time", token, req("?" + query[len("expires=946684860&"):]), "no parameter expires"},
			{"no signature", token, req("?expires=946684860"), "no parameter sign"},
			{"two times", token, req("?expires=1&" + query), "given twice"},
			{"two signatures", token, req("?sign=1&" + query), "given twice"},
		} {
			err := tt.token.Verify(tt.req)
			require.ErrorIs(t, err, ErrToken, tt.name)
			require.ErrorContains(t, err, tt.want, tt.name)
		}

		time.Sleep(time.Minute - 1)
		require.NoError(t, token.Verify(req("?"+query)))
		time.Sleep(time.Nanosecond)
		require.ErrorContains(t, token.Verify(req("?"+query)), "expired")

		for _, none := range []Token{{}, {Secrets: []forward.Secret{""}}} {
			_, err := none.Sign("live/s", expires)
			require.ErrorContains(t, err, "no secret")
		}
		require.ErrorContains(t, token.Verify(req("?expires=soon&sign="+token.signature("k", "live/s", "soon"))), "expired")
	})
}

func TestTokenSignsNamesAlone(t *testing.T) {
	token := Token{Secrets: []forward.Secret{"secret"}}
	for _, name := range []string{
		"", "live", "/live/s", "live/s/", "live//s", "live/../s", "live/./s", "live\\s", "live/s\x00", "live/\xff",
		"//", "///live/s", "//v", "//v/", "//v/live", "//v/live/", "//v//live/s", "//v\\w/live/s", "//../live/s",
	} {
		_, err := token.Sign(name, time.Now().Add(time.Hour))
		require.Error(t, err, "%q", name)
	}
	for _, name := range []string{"live/s", "a/b/c/d", "//v/live/s", "//V/a/b/c", "//__defaultVhost__/live/s", "live/s?x=1", "live/ä"} {
		_, err := token.Sign(name, time.Now().Add(time.Hour))
		require.NoError(t, err, "%q", name)
	}
}

// A signature is for a vhost and a path, however they are written.
func TestTokenIsForOneStreamOfTwoVhosts(t *testing.T) {
	a := &forward.Request{Vhost: "studio.example", App: "live", Stream: "cam"}
	b := &forward.Request{Vhost: forward.DefaultVhost, App: "studio.example/live", Stream: "cam"}
	c := &forward.Request{Vhost: "Studio.Example", App: "live", Stream: "cam"}
	token := Token{Secrets: []forward.Secret{"k"}}
	sign := func(name string) string {
		query, err := token.Sign(name, time.Now().Add(time.Hour))
		require.NoError(t, err)
		return "?" + query
	}
	signed := func(r *forward.Request, param string) error {
		with := *r
		with.Param = param
		return token.Verify(&with)
	}
	of := sign("//STUDIO.example/live/cam")
	require.NoError(t, signed(a, of))
	require.NoError(t, signed(c, of))
	require.ErrorIs(t, signed(b, of), ErrToken)
	other := sign("studio.example/live/cam")
	require.NoError(t, signed(b, other))
	require.ErrorIs(t, signed(a, other), ErrToken)
	for _, name := range []string{"//", "//studio.example", "///live/cam"} {
		_, err := token.Sign(name, time.Now())
		require.ErrorContains(t, err, "not a stream's name")
	}
}

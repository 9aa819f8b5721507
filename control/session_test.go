package control

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
)

const jsonType, formType = "application/json", "application/x-www-form-urlencoded"

// fromPage is a request as a page of the server at 127.0.0.1:8080 makes it.
func fromPage(method, path, typ, body string) *http.Request {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host = "127.0.0.1:8080"
	r.Header.Set("Origin", "http://127.0.0.1:8080")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if typ != "" {
		r.Header.Set("Content-Type", typ)
	}
	return r
}

// loggedIn returns the cookie of a new session.
func loggedIn(t *testing.T, s *Server) *http.Cookie {
	t.Helper()
	w := asked(s, fromPage("POST", "/session", jsonType, `{"token":"`+token+`"}`))
	require.Equal(t, 204, w.Code)
	cookies := w.Result().Cookies()
	require.Len(t, cookies, 1)
	return cookies[0]
}

// with adds a cookie to a request.
func with(r *http.Request, c *http.Cookie) *http.Request {
	r.AddCookie(c)
	return r
}

func TestSessionBeginsWithAToken(t *testing.T) {
	s := newControlServer(t, newServer(t, forward.Config{}), ServerOptions{})
	for _, tt := range []struct {
		method, typ, body string
		status            int
	}{
		{"POST", jsonType, `{"token":"` + token + `"}`, 204},
		{"POST", jsonType + "; charset=utf-8", `{"token":" ` + token + `\n"}`, 204},
		{"POST", formType, "token=" + token, 303},
		{"POST", jsonType, `{"token":"` + token[1:] + `"}`, 401},
		{"POST", formType, "", 401},
		{"POST", jsonType, `{`, 400},
		{"POST", formType, "%", 400},
		{"POST", formType, "token=" + strings.Repeat("x", maxLogin), 400},
		{"POST", "text/plain", token, 415},
		{"GET", "", "", 200},
		{"PUT", jsonType, `{"token":"` + token + `"}`, 405},
	} {
		w := asked(s, fromPage(tt.method, "/session", tt.typ, tt.body))
		require.Equal(t, tt.status, w.Code, "%+v", tt)
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		require.Equal(t, tt.method == "POST" && tt.status < 400, len(w.Result().Cookies()) == 1, "%+v", tt)
	}
	w := asked(s, fromPage("POST", "/session?token="+token, formType, "token="))
	require.Equal(t, 401, w.Code, "a token in the URL does not count")
}

func TestSessionCookieIsForThisServerAlone(t *testing.T) {
	s := newControlServer(t, newServer(t, forward.Config{}), ServerOptions{Hosts: []string{"forward.example"}})
	c := loggedIn(t, s)
	require.Equal(t, "forward_session_8080", c.Name)
	require.True(t, c.HttpOnly)
	require.False(t, c.Secure)
	require.Equal(t, http.SameSiteStrictMode, c.SameSite)
	require.Equal(t, "/", c.Path)
	require.Empty(t, c.Domain)
	require.NotContains(t, c.Value, canary)
	require.GreaterOrEqual(t, len(c.Value), 26, "130 bits")
	require.NotEqual(t, c.Value, loggedIn(t, s).Value)

	// Behind a proxy that ends TLS.
	r := fromPage("POST", "/session", jsonType, `{"token":"`+token+`"}`)
	r.Host = "forward.example"
	r.Header.Set("Origin", "https://forward.example")
	c = asked(s, r).Result().Cookies()[0]
	require.Equal(t, "forward_session", c.Name)
	require.True(t, c.Secure)
}

// The cookie is as good as a token, but in requests of the server's own page only.
func TestSessionCookieCountsOnOurPageAlone(t *testing.T) {
	srv := newServer(t, forward.Config{})
	s := newControlServer(t, srv, ServerOptions{Hosts: []string{"forward.example"}})
	s.Handle("/facts", RequireToken, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Handle("/media", HandlerDecides, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.IsOperator(r) {
			w.WriteHeader(http.StatusPaymentRequired)
		}
	}))
	c := loggedIn(t, s)
	require.JSONEq(t, `{"operator":true}`, asked(s, with(fromPage("GET", "/session", "", ""), c)).Body.String())
	require.JSONEq(t, `{"operator":false}`, asked(s, fromPage("GET", "/session", "", "")).Body.String())
	for path, without := range map[string]int{"/facts": 401, "/media": 402, "/control/sources": 401} {
		require.Equal(t, without, asked(s, fromPage("GET", path, "", "")).Code)
		require.Equal(t, 200, asked(s, with(fromPage("GET", path, "", ""), c)).Code)
	}
	p := publish(t, srv, "live", canary)
	end := "/control/sources/" + p.Source().ID()
	for _, tt := range []struct {
		method, host, origin, site string
		status                     int
	}{
		{"GET", "127.0.0.1:8080", "", "", 200},
		{"GET", "127.0.0.1:8080", "", "none", 200},
		{"GET", "127.0.0.1:8080", "", "same-origin", 200},
		{"GET", "127.0.0.1:8080", "", "same-site", 401},
		{"GET", "127.0.0.1:8080", "", "cross-site", 401},
		{"GET", "127.0.0.1:8080", "http://127.0.0.1:8081", "", 401},
		{"GET", "evil.example:8080", "", "same-origin", 421},
		{"DELETE", "evil.example:8080", "http://evil.example:8080", "same-origin", 421},
		{"DELETE", "127.0.0.1:8080", "", "", 401},
		{"DELETE", "127.0.0.1:8080", "", "none", 401},
		{"DELETE", "127.0.0.1:8080", "http://127.0.0.1:8081", "", 403},
		{"DELETE", "127.0.0.1:8080", "null", "", 403},
		{"DELETE", "127.0.0.1:8080", "http://127.0.0.1:8080", "same-site", 403},
		{"DELETE", "127.0.0.1:8080", "http://127.0.0.1:8081", "cross-site", 403},
		{"DELETE", "127.0.0.1:8080", "http://127.0.0.1:8080", "", 204},
	} {
		r := with(httptest.NewRequest(tt.method, end, nil), c)
		r.Host = tt.host
		for name, value := range map[string]string{"Origin": tt.origin, "Sec-Fetch-Site": tt.site} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		require.Equal(t, tt.status, asked(s, r).Code, "%+v", tt)
	}
	// A wrong token is not made good by a cookie.
	r := with(fromPage("GET", "/facts", "", ""), c)
	r.Header.Set("Authorization", "Bearer "+token[1:])
	require.Equal(t, 401, asked(s, r).Code)
	// A handler without a server has no sessions.
	h, err := Handler(srv, Options{Tokens: []forward.Secret{token}})
	require.NoError(t, err)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, with(fromPage("GET", "/sources", "", ""), c))
	require.Equal(t, 401, w.Code)
}

func TestSessionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newControlServer(t, newServer(t, forward.Config{}), ServerOptions{})
		get := func(c *http.Cookie) int { return asked(s, with(fromPage("GET", "/control/sources", "", ""), c)).Code }

		one, other := loggedIn(t, s), loggedIn(t, s)
		w := asked(s, with(fromPage("DELETE", "/session", "", ""), one))
		require.Equal(t, 204, w.Code)
		require.Negative(t, w.Result().Cookies()[0].MaxAge)
		require.Equal(t, 401, get(one), "after the logout")
		require.Equal(t, 200, get(other))
		require.Equal(t, 204, asked(s, fromPage("DELETE", "/session", "", "")).Code, "without a session")

		time.Sleep(sessionTime)
		require.Equal(t, 200, get(other))
		time.Sleep(time.Nanosecond)
		require.Equal(t, 401, get(other), "after its time")
		require.Empty(t, s.keys.sessions.all)

		first := loggedIn(t, s)
		for range maxSessions {
			other = loggedIn(t, s)
		}
		require.Equal(t, 401, get(first), "of too many the oldest has ended")
		require.Equal(t, 200, get(other))
		require.Len(t, s.keys.sessions.all, maxSessions)

		require.NoError(t, s.Reload(ServerOptions{Options: Options{Tokens: []forward.Secret{"another", token}}}))
		require.Equal(t, 200, get(other))
		require.NoError(t, s.Reload(ServerOptions{Options: Options{Tokens: []forward.Secret{"another"}}}))
		require.Equal(t, 401, get(other), "its token is gone")
	})
}

func TestFailedLoginsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newControlServer(t, newServer(t, forward.Config{}), ServerOptions{})
		login := func(addr, token string) *httptest.ResponseRecorder {
			r := fromPage("POST", "/session", jsonType, `{"token":"`+token+`"}`)
			r.RemoteAddr = addr
			return asked(s, r)
		}
		for range maxFailures {
			require.Equal(t, 401, login("[2001:db8::1]:1000", "wrong").Code)
		}
		w := login("[2001:db8::2]:1001", token)
		require.Equal(t, 429, w.Code, "one network, whatever the token")
		require.Equal(t, "61", w.Header().Get("Retry-After"))
		require.Equal(t, 204, login("[2001:db8:1::1]:1000", token).Code)
		require.Equal(t, 204, login("192.0.2.1:1000", token).Code)
		time.Sleep(failureTime)
		require.Equal(t, 204, login("[2001:db8::1]:1000", token).Code)
		for range 10 {
			require.Equal(t, 204, login("192.0.2.1:1000", token).Code, "those that succeed are not limited")
		}
		for i := range 2 * maxFailureAddr {
			status := 401
			if i >= maxFailureAddr {
				status = 429
			}
			require.Equal(t, status, login(fmt.Sprintf("10.0.%d.%d:1000", i/256, i%256), "wrong").Code, i)
		}
		require.Len(t, s.keys.sessions.failed, maxFailureAddr)
		time.Sleep(failureTime)
		require.Equal(t, 204, login("192.0.2.1:1000", token).Code)
		require.Empty(t, s.keys.sessions.failed)
	})
}

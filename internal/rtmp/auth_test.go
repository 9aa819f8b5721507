package rtmp

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const reject = "[ AccessManager.Reject ] : [ "

// The expected responses were computed by another program.
func TestAuthorize(t *testing.T) {
	const nonce = "01020304"
	answered := "authmod=adobe&user=jo&challenge=0&response=x"
	odd := Options{App: "live", User: "a b&c=d?@e/f%+ü", Password: "p&w"}
	for _, c := range []struct {
		name, description string
		opt               Options
		want              string // empty: cannot be answered
	}{
		{"adobe, asked for the user", reject + "code=403 need auth; authmod=adobe ] : ", Options{}, "authmod=adobe&user=jo"},
		{"llnw, asked for the user", reject + "code=403 need auth; authmod=llnw ] : ", Options{}, "authmod=llnw&user=jo"},
		{"authmod in a bracket of its own", reject + "authmod=adobe ] : [ code=403 need auth ]", Options{}, "authmod=adobe&user=jo"},
		{"asked for the user again", reject + "code=403 need auth; authmod=adobe ] : ", Options{Auth: "authmod=adobe&user=jo"}, ""},

		{"adobe, opaque", reject + "authmod=adobe ] : ?reason=needauth&user=jo&salt=SaLt&challenge=chall&opaque=vbi2V==", Options{Auth: "authmod=adobe&user=jo"},
			"authmod=adobe&user=jo&challenge=01020304&response=eNc3fteWIiOd/SHt00pv3Q==&opaque=vbi2V=="},
		{"adobe, at once", reject + "authmod=adobe ] : ?reason=needauth&user=jo&salt=SaLt&challenge=chall&opaque=vbi2V== ", Options{},
			"authmod=adobe&user=jo&challenge=01020304&response=eNc3fteWIiOd/SHt00pv3Q==&opaque=vbi2V=="},
		{"adobe, challenge alone", reject + "authmod=adobe ] : ?reason=needauth&user=jo&salt=SaLt&challenge=chall", Options{},
			"authmod=adobe&user=jo&challenge=01020304&response=aHRyra2+Xx0ukKnYDVu7tQ=="},
		{"adobe, nothing", reject + "authmod=adobe ] : ?reason=needauth", Options{},
			"authmod=adobe&user=jo&challenge=01020304&response=YfqVJ0NFm3GRyImzWChtAw=="},
		{"adobe, any user name", reject + "authmod=adobe ] : ?reason=needauth&user=a&salt=SaLt&opaque=op", odd,
			"authmod=adobe&user=a%20b%26c%3Dd%3F@e%2Ff%25%2Bü&challenge=01020304&response=jZPg3jk0rJhonaT7jluh3Q==&opaque=op"},
		{"adobe, asked again", reject + "authmod=adobe ] : ?reason=needauth&user=jo&salt=SaLt&opaque=op", Options{Auth: answered}, ""},
		{"adobe, failed", reject + "authmod=adobe ] : ?reason=authfailed&opaque=vbi2V==", Options{Auth: answered}, ""},
		{"adobe, no such user", reject + "authmod=adobe ] : ?reason=nosuchuser&opaque=vbi2V==", Options{Auth: answered}, ""},

		{"llnw, one level", reject + "authmod=llnw ] : ?reason=needauth&user=jo&nonce=N0nce", Options{},
			"authmod=llnw&user=jo&nonce=N0nce&cnonce=01020304&nc=00000001&response=9eef7e4dac6416da437df855569fc2e8"},
		{"llnw, two levels and a query", reject + "authmod=llnw ] : ?reason=needauth&user=jo&nonce=N0nce", Options{App: "live/more?x=1"},
			"authmod=llnw&user=jo&nonce=N0nce&cnonce=01020304&nc=00000001&response=d7a2ec462010edd29b789efebffb071c"},

		{"another method", reject + "authmod=red5 ] : ?reason=needauth&user=jo&challenge=x", Options{}, ""},
		{"no method", reject + "code=403 need auth ] : ", Options{}, ""},
		{"about something else", "No such app.", Options{}, ""},
		{"empty", "", Options{}, ""},
		{"no user to give", reject + "code=403 need auth; authmod=adobe ] : ", Options{User: "-"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			switch c.opt.User {
			case "":
				c.opt.User, c.opt.Password = "jo", "secret"
			case "-":
				c.opt.User = ""
			}
			if c.opt.App == "" {
				c.opt.App = "live"
			}
			got, ok := c.opt.authorize(c.description, nonce)
			require.Equal(t, c.want, got)
			require.Equal(t, c.want != "", ok)
		})
	}
}

func TestAuthOfConnect(t *testing.T) {
	for _, c := range []struct{ in, app, auth string }{
		{"live", "live", "authmod=adobe&user=jo"},
		{"live?backup=1", "live?backup=1", "authmod=adobe&user=jo"},
		{"live", "live", ""},
		{"live?a=1", "live?a=1", ""},
	} {
		app, auth := CutAuth(withAuth(c.in, c.auth))
		require.Equal(t, c.app, app)
		require.Equal(t, c.auth, auth)
	}

	r := &record{}
	refusal := command(0, "_error", 1, nil, status("error", "NetConnection.Connect.Rejected",
		reject+"authmod=adobe ] : ?reason=needauth&user=jo.doe&salt=SaLt&opaque=0paque secret jo.doe"))
	err := client(r, Options{App: "live?a=1", TcURL: "rtmp://h/live?a=1", User: "jo.doe", Password: "secret", Auth: "authmod=adobe&user=jo.doe"}, refusal).Publish()
	var required *AuthRequired
	require.ErrorAs(t, err, &required)
	require.Contains(t, required.Auth, "&response=")
	require.Equal(t, "NetConnection.Connect.Rejected", required.Refused.Code)
	for _, secret := range []string{"jo.doe", "secret"} {
		require.NotContains(t, err.Error(), secret)
	}
	// Without a user it is an ordinary refusal.
	err = client(&record{}, Options{}, refusal).Publish()
	require.False(t, errors.As(err, &required))
	var st *StatusError
	require.ErrorAs(t, err, &st)
}

// ask goes through the authentication as a client does, with as many connections as it
// takes.
func ask(a *Authenticator, method string, o Options, nonce string) (user string, connections int, err error) {
	for connections = 1; ; connections++ {
		app, auth := CutAuth(withAuth(o.App, o.Auth))
		user, err = a.Check(method, app, auth)
		var st *StatusError
		if !errors.As(err, &st) {
			return user, connections, err
		}
		auth, ok := o.authorize(st.Description, nonce)
		if !ok {
			return user, connections, err
		}
		o.Auth = auth
	}
}

var methods = []string{AuthAdobe, AuthLLNW}

func TestAuthenticator(t *testing.T) {
	users := map[string]string{"jo": "secret", "a b&c=d?@e/f%+ü": "p&w", "empty": "", "%zz": "x", "a%20b": "x"}
	a := NewAuthenticator(func(user string) (string, bool) { p, ok := users[user]; return p, ok })
	for _, method := range methods {
		for _, app := range []string{"live", "live?x=1", "live/more", "live/more?x=/1"} {
			for user, password := range users {
				got, n, err := ask(a, method, Options{App: app, User: user, Password: password}, newNonce())
				require.NoError(t, err, user)
				require.Equal(t, user, got)
				require.Equal(t, 3, n)

				got, n, err = ask(a, method, Options{App: app, User: user, Password: password + "x"}, newNonce())
				require.EqualError(t, err, "connect refused: wrong user or password")
				require.Empty(t, got)
				require.Equal(t, 3, n)
			}
			_, n, err := ask(a, method, Options{App: app, User: "nobody"}, newNonce())
			require.EqualError(t, err, "connect refused: wrong user or password", "as with a wrong password")
			require.Equal(t, 3, n)
		}
	}
}

// The exact descriptions: clients search for parts of them.
func TestAuthenticatorWords(t *testing.T) {
	a := NewAuthenticator(func(string) (string, bool) { return "pw", true })
	said := func(method, auth string) string {
		_, err := a.Check(method, "live", auth)
		var st *StatusError
		require.ErrorAs(t, err, &st)
		require.Equal(t, "NetConnection.Connect.Rejected", st.Code)
		return st.Description
	}
	require.Equal(t, reject+"code=403 need auth; authmod=adobe ] : ", said(AuthAdobe, ""))
	require.Equal(t, reject+"code=403 need auth; authmod=llnw ] : ", said(AuthLLNW, ""))
	require.Equal(t, reject+"code=403 need auth; authmod=llnw ] : ", said(AuthLLNW, "authmod=adobe&user=jo"))
	require.Regexp(t, `^\[ AccessManager.Reject \] : \[ authmod=adobe \] : \?reason=needauth&user=j%6f&salt=[-\w]{8}&challenge=[-\w]{36}&opaque=[-\w]{36}$`,
		said(AuthAdobe, "authmod=adobe&user=j%6f"))
	require.Regexp(t, `^\[ AccessManager.Reject \] : \[ authmod=llnw \] : \?reason=needauth&user=j%6f&nonce=[-\w]{36}$`,
		said(AuthLLNW, "authmod=llnw&user=j%6f"))
	require.Equal(t, reject+"authmod=adobe ] : ?reason=authfailed", said(AuthAdobe, "authmod=adobe&user=jo&response=x"))
	require.Equal(t, reject+"authmod=llnw ] : ?reason=authfailed", said(AuthLLNW, "authmod=llnw&user=jo&response=x"))
}

// Some clients send the user's name unencoded, and hash it as the server repeats it.
func TestAuthenticatorTakesTheNameAsSent(t *testing.T) {
	a := NewAuthenticator(func(user string) (string, bool) { return "pw", user == "a+b c" })
	for _, method := range methods {
		_, err := a.Check(method, "live", "authmod="+method+"&user=a+b%20c")
		var st *StatusError
		require.ErrorAs(t, err, &st)
		_, params, _ := strings.Cut(st.Description, needAnswer)
		q := parseAuth(params)
		require.Equal(t, "a+b%20c", q["user"])
		user, err := a.Check(method, "live", answer(method, "live", q["user"], "pw", q["challenge"]+q["nonce"]))
		require.NoError(t, err)
		require.Equal(t, "a+b c", user)
	}
}

// answer returns the query of a client that is written independently of ours.
func answer(method, app, user, password, challenge string) string {
	if method == AuthLLNW {
		return "authmod=llnw&user=" + user + "&nonce=" + challenge + "&cnonce=c&nc=00000001&response=" +
			llnwResponse(withInstance(app), user, password, challenge, "c", "00000001")
	}
	return "authmod=adobe&user=" + user + "&challenge=c&response=" +
		adobeResponse(user, password, salt(challenge), challenge, "c") + "&opaque=" + challenge
}

// FFmpeg hashes the app with its query, and counts a slash in the query as the app's.
func TestAuthenticatorTakesTheAppWithItsQuery(t *testing.T) {
	a := NewAuthenticator(func(string) (string, bool) { return "pw", true })
	for _, app := range []string{"live?x=1", "live?x=a/b", "live/more?x=1"} {
		_, err := a.Check(AuthLLNW, app, answer(AuthLLNW, app, "jo", "pw", a.challenge("jo", time.Now(), nil)))
		require.NoError(t, err, app)
	}
	_, err := a.Check(AuthLLNW, "live", answer(AuthLLNW, "other", "jo", "pw", a.challenge("jo", time.Now(), nil)))
	require.ErrorIs(t, err, ErrWrong, "of another app")
}

func TestAuthenticatorChallenges(t *testing.T) {
	for _, method := range methods {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				known := func(string) (string, bool) { return "secret", true }
				a := NewAuthenticator(known)
				check := func(auth string) error { _, err := a.Check(method, "live", auth); return err }
				good := func(user, challenge string) string { return answer(method, "live", user, "secret", challenge) }
				challenge := a.challenge("jo", time.Now(), nil)
				late, later := a.challenge("jo", time.Now(), nil), a.challenge("jo", time.Now(), nil)
				require.Error(t, check(answer(method, "live", "jo", "wrong", challenge)))
				require.NoError(t, check(good("jo", challenge)), "a wrong answer uses up nothing")
				require.ErrorIs(t, check(good("jo", challenge)), ErrWrong, "a second time")
				unused := a.challenge("jo", time.Now(), nil)
				for name, auth := range map[string]string{
					"of another user":   good("al", unused),
					"of another server": good("jo", NewAuthenticator(known).challenge("jo", time.Now(), nil)),
					"of the future":     good("jo", a.challenge("jo", time.Now().Add(time.Hour), nil)),
					"changed":           good("jo", a.challenge("jo", time.Now(), []byte("abcd"))[:16]+unused[16:]),
					"longer":            good("jo", unused+"AAAA"),
					"none":              "authmod=" + method + "&user=jo&challenge=1&response=x",
					"another method":    "authmod=red5&user=jo&response=x",
					"no user":           "authmod=" + method + "&user=&response=x",
					"nothing":           "",
				} {
					require.Error(t, check(auth), name)
				}
				time.Sleep(authLife - time.Second)
				require.NoError(t, check(good("jo", late)))
				time.Sleep(2 * time.Second)
				require.ErrorIs(t, check(good("jo", later)), ErrWrong, "too late")
			})
		})
	}
}

// If many clients send the same answer at the same time, one is accepted.
func TestAuthenticatorTakesAnAnswerOnce(t *testing.T) {
	a := NewAuthenticator(func(string) (string, bool) { return "pw", true })
	auth := answer(AuthAdobe, "live", "jo", "pw", a.challenge("jo", time.Now(), nil))
	var in atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := a.Check(AuthAdobe, "live", auth); err == nil {
				in.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, in.Load())
}

// No challenge is valid twice, even if there are too many to remember.
func TestAuthenticatorRemembersSoMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewAuthenticator(nil)
		first, waits := a.challenge("jo", time.Now(), nil), a.challenge("jo", time.Now(), nil)
		require.True(t, a.spend(first))
		for range maxSpent {
			time.Sleep(time.Nanosecond)
			require.True(t, a.spend(a.challenge("jo", time.Now(), nil)))
			require.LessOrEqual(t, len(a.spent), maxSpent)
		}
		require.False(t, a.spend(first))
		require.False(t, a.spend(waits), "no longer good")
		time.Sleep(time.Nanosecond)
		require.True(t, a.spend(a.challenge("jo", time.Now(), nil)))

		time.Sleep(authLife + time.Second)
		for range maxSpent {
			require.True(t, a.spend(a.challenge("jo", time.Now(), nil)))
		}
		require.Len(t, a.spent, maxSpent, "what is too old was forgotten")
	})
}

// Only a response computed with the password is accepted.
func FuzzAuthenticator(f *testing.F) {
	f.Add("live", "authmod=adobe&user=jo&challenge=1&response=2&opaque=3")
	f.Add("live?a=1", "authmod=adobe&user=%6a%zz&response=%")
	f.Add("live/a", "authmod=llnw&user=jo&nonce=1&cnonce=2&nc=00000001&response=3")
	a := NewAuthenticator(func(string) (string, bool) { return "a password nobody has", true })
	f.Fuzz(func(t *testing.T, app, auth string) {
		for _, method := range methods {
			_, err := a.Check(method, app, auth)
			var st *StatusError
			require.ErrorAs(t, err, &st)
			require.True(t, strings.HasPrefix(st.Description, reject))
			(&Options{User: "jo"}).authorize(auth, "n")
		}
		require.Empty(t, a.spent)
	})
}

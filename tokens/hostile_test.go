package tokens

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/tokens/tokenstest"
)

// hostile is an answer of a token endpoint, octet by octet, and what is to be
// made of it. In its texts stand for themselves:
//
//	{A} {R}  the tokens that the server issues now: it acts on the request
//	{T} {S}  the refresh token or code, and the client secret, as they came
//	{t} {s}  the same, URL-encoded
//	{escaped}  the same as {T}, in JSON's \u notation; {half} is its begin
type hostile struct {
	status int    // zero: 200
	header string // lines that end in CR LF
	body   string
	// raw is all of the answer, instead of the above, if it is set.
	raw string
	// script answers, instead of the above, if it is set.
	script func(c *conn)

	// kept: the tokens are taken, with this life.
	kept bool
	life time.Duration
	// Else the failure.
	kind Kind
	code string
	// wait is what is asked of us with it.
	wait time.Duration
}

// hostileAnswers are answers that some server gives, or could.
var hostileAnswers = map[string]hostile{
	// Redirects. Following one would send all secrets along.
	"301 to itself":       {status: 301, header: "Location: http://idp.example.net/token\r\n", kind: KindConfig},
	"302 elsewhere":       {status: 302, header: "Location: http://evil.example/\r\n", kind: KindConfig},
	"303 elsewhere":       {status: 303, header: "Location: http://evil.example/\r\n", kind: KindConfig},
	"307 to itself":       {status: 307, header: "Location: /token\r\n", kind: KindConfig},
	"307 elsewhere":       {status: 307, header: "Location: http://evil.example/\r\n", kind: KindConfig},
	"308 elsewhere":       {status: 308, header: "Location: //evil.example/\r\n", kind: KindConfig},
	"302 with secrets":    {status: 302, header: "Location: http://evil.example/?t={t}&s={s}\r\n", kind: KindConfig},
	"302 to nowhere":      {status: 302, kind: KindConfig},
	"302 to no URL":       {status: 302, header: "Location: ://{t}\r\n", kind: KindAmbiguous},
	"302 with a token":    {status: 302, header: "Location: /x\r\n", body: `{"access_token":"access-of-nobody"}`, kind: KindConfig},
	"200 with a Location": {header: "Location: http://evil.example/\r\n", body: properAnswer, kept: true, life: time.Hour},

	// Too much, too slow, cut.
	"huge body":        {body: `{"access_token":"` + strings.Repeat("x", 10<<20) + `"}`, kind: KindAmbiguous},
	"huge body of 500": {status: 500, body: strings.Repeat("x", 10<<20), kind: KindTransient},
	"huge header":      {header: "X: " + strings.Repeat("x", 11<<20) + "\r\n", body: "{}", kind: KindAmbiguous},
	"headers for ever": {script: forEver("HTTP/1.1 200 OK\r\n", strings.Repeat("X: y\r\n", 10000), time.Second/100), kind: KindAmbiguous},
	"header by header": {script: forEver("HTTP/1.1 200 OK\r\n", "X: y\r\n", time.Second), kind: KindAmbiguous},
	"body for ever":    {script: forEver("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat(" ", 60000), time.Second/10), kind: KindAmbiguous},
	"octet by octet":   {script: forEver("HTTP/1.1 200 OK\r\n\r\n{", " ", time.Second), kind: KindAmbiguous},
	"slow, in time": {script: func(c *conn) {
		c.fill("{A}")
		time.Sleep(requestTimeout - time.Second)
		c.answer("", c.fill(properAnswer))
	}, kept: true, life: time.Hour},
	"silence":            {script: func(c *conn) { c.hang() }, kind: KindAmbiguous},
	"silence after 200":  {script: func(c *conn) { c.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"); c.hang() }, kind: KindAmbiguous},
	"gzip bomb":          {script: func(c *conn) { c.answer("Content-Encoding: gzip\r\n", zip(strings.Repeat(" ", 64<<20))) }, kind: KindAmbiguous},
	"gzip that is none":  {header: "Content-Encoding: gzip\r\n", body: properAnswer, kind: KindAmbiguous},
	"gzip":               {script: func(c *conn) { c.answer("Content-Encoding: gzip\r\n", zip(c.fill(properAnswer))) }, kept: true, life: time.Hour},
	"lost before":        {script: func(*conn) {}, kind: KindAmbiguous},
	"lost in the status": {raw: "HTTP/1.1 2", kind: KindAmbiguous},
	"lost in the header": {raw: "HTTP/1.1 200 OK\r\nContent-Type: app", kind: KindAmbiguous},
	"lost after it":      {raw: "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", kind: KindAmbiguous},
	"lost in the body":   {raw: "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + `{"access_token":"{A}","refre`, kind: KindAmbiguous},
	"lost, acted":        {script: func(c *conn) { c.fill("{A}") }, kind: KindAmbiguous},
	"reset":              {script: func(c *conn) { c.fill("{A}"); c.reset() }, kind: KindAmbiguous},
	"chunked, cut":       {raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + `{"access_token":"{A}"`, kind: KindAmbiguous},
	"chunks of rubbish":  {raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz{A}\r\n{A}", kind: KindAmbiguous},
	"401, lost":          {raw: "HTTP/1.1 401 No\r\nContent-Length: 99\r\n\r\n" + `{"error":"invalid_cl`, kind: KindAmbiguous},
	"whole, end missing": {raw: "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + properAnswer, kept: true, life: time.Hour},

	// No HTTP.
	"HTTP/0.9":             {raw: properAnswer, kind: KindAmbiguous},
	"SMTP":                 {raw: "220 mail.example.net ESMTP {T}\r\n", kind: KindAmbiguous},
	"TLS alert":            {raw: "\x15\x03\x01\x00\x02\x02\x46", kind: KindAmbiguous},
	"status no number":     {raw: "HTTP/1.1 {A} OK\r\n\r\n", kind: KindAmbiguous},
	"header line rubbish":  {raw: "HTTP/1.1 200 OK\r\n{A} {T}\r\n\r\n", kind: KindAmbiguous},
	"length no number":     {raw: "HTTP/1.1 200 OK\r\nContent-Length: {A}\r\n\r\n{}", kind: KindAmbiguous},
	"trailer rubbish":      {raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n {A}\r\n{A} {T}\r\n\r\n", kind: KindAmbiguous},
	"header begins odd":    {raw: "HTTP/1.1 200 OK\r\n {A}\r\n\r\n", kind: KindAmbiguous},
	"two lengths":          {raw: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", kind: KindAmbiguous},
	"encoding unknown":     {raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: {A}\r\n\r\n{}", kind: KindAmbiguous},
	"CR LF twice in reply": {raw: "\r\n\r\n{A}\r\n", kind: KindAmbiguous},

	// Statuses.
	"103 before it":            {raw: "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + properAnswer, kept: true, life: time.Hour},
	"100 without end":          {raw: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 50), kind: KindAmbiguous},
	"101":                      {raw: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", kind: KindTransient},
	"204":                      {raw: "HTTP/1.1 204 No Content\r\n\r\n", kind: KindAmbiguous},
	"201 with tokens":          {status: 201, body: properAnswer, kept: true, life: time.Hour},
	"203 with tokens":          {status: 203, body: properAnswer, kept: true, life: time.Hour},
	"400 without body":         {status: 400, kind: KindTransient},
	"400 with HTML":            {status: 400, body: "<html>{T} {S}", kind: KindTransient},
	"401 with WWW-Authentiate": {status: 401, header: "WWW-Authenticate: Basic realm=\"{T}\"\r\n", body: `{"error":"invalid_client"}`, kind: KindConfig, code: "invalid_client"},
	"403 with HTML":            {status: 403, body: "<html>", kind: KindConfig},
	"404":                      {status: 404, body: "not found", kind: KindConfig},
	"407":                      {status: 407, header: "Proxy-Authenticate: Basic\r\n", kind: KindTransient},
	"408":                      {status: 408, kind: KindTransient},
	"410":                      {status: 410, kind: KindTransient},
	"418":                      {status: 418, kind: KindTransient},
	"451":                      {status: 451, body: "<html>", kind: KindTransient},
	"421, of HTTP/2":           {status: 421, kind: KindTransient},
	"500 saying dead":          {status: 500, body: `{"error":"invalid_grant"}`, kind: KindTransient, code: "invalid_grant"},
	"501 saying dead":          {status: 501, body: `{"error":"invalid_grant"}`, kind: KindTransient, code: "invalid_grant"},
	"502 with HTML":            {status: 502, body: "<html><h1>{T}</h1>", kind: KindTransient},
	"503 saying dead":          {status: 503, body: `{"error":"invalid_grant"}`, kind: KindTransient, code: "invalid_grant"},
	"504 saying client":        {status: 504, body: `{"error":"invalid_client"}`, kind: KindTransient, code: "invalid_client"},
	"599 with tokens":          {status: 599, body: `{"access_token":"{A}","refresh_token":"{R}"}`, kind: KindTransient},
	"999":                      {status: 999, kind: KindTransient},

	// Retry-After.
	"429 in seconds":       {status: 429, header: "Retry-After: 120\r\n", kind: KindTransient, wait: 2 * time.Minute},
	"429 with a date":      {status: 429, header: "Retry-After: {in2m}\r\n", kind: KindTransient, wait: 2 * time.Minute},
	"429 with an old date": {status: 429, header: "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", kind: KindTransient},
	"429 below zero":       {status: 429, header: "Retry-After: -1\r\n", kind: KindTransient},
	"429 with a fraction":  {status: 429, header: "Retry-After: 1.5\r\n", kind: KindTransient},
	"429 with a word":      {status: 429, header: "Retry-After: {T}\r\n", kind: KindTransient},
	"429 for a century":    {status: 429, header: "Retry-After: 3155760000\r\n", kind: KindTransient, wait: 24 * time.Hour},
	"429 twice":            {status: 429, header: "Retry-After: 60\r\nRetry-After: 9\r\n", kind: KindTransient, wait: time.Minute},
	"429 saying dead":      {status: 429, body: `{"error":"invalid_grant"}`, kind: KindTransient, code: "invalid_grant"},
	"429 without a word":   {status: 429, kind: KindTransient},

	// A success that can't be read, or says that it is none.
	"200 with HTML":          {header: "Content-Type: text/html\r\n", body: "<html>Sign in, {T}", kind: KindAmbiguous},
	"200 empty":              {kind: KindAmbiguous},
	"a list":                 {body: "[" + properAnswer + "]", kind: KindAmbiguous},
	"a form":                 {header: "Content-Type: application/x-www-form-urlencoded\r\n", body: "access_token={A}&token_type=bearer", kind: KindAmbiguous},
	"UTF-16":                 {script: func(c *conn) { c.answer("", wide(c.fill(properAnswer))) }, kind: KindAmbiguous},
	"cut inside the token":   {body: `{"access_token":"{A}`, kind: KindAmbiguous},
	"access_token empty":     {body: `{"access_token":"","refresh_token":"{R}"}`, kind: KindAmbiguous},
	"access_token null":      {body: `{"access_token":null}`, kind: KindAmbiguous},
	"access_token a number":  {body: `{"access_token":7}`, kind: KindAmbiguous},
	"access_token a list":    {body: `{"access_token":["{A}"]}`, kind: KindAmbiguous},
	"access_token with CRLF": {body: `{"access_token":"{A}\r\nX: y"}`, kind: KindAmbiguous},
	"access_token with NUL":  {body: `{"access_token":"{A}\u0000"}`, kind: KindAmbiguous},
	"access_token spaced":    {body: `{"access_token":"{A} {A}"}`, kind: KindAmbiguous},
	"access_token Unicode":   {body: `{"access_token":"{A}é"}`, kind: KindAmbiguous},
	"refresh_token with LF":  {body: `{"access_token":"{A}","refresh_token":"{R}\n"}`, kind: KindAmbiguous},
	"error beside tokens":    {body: `{"error":"invalid_grant","error_description":"{A} {R}","access_token":"{A}","refresh_token":"{R}"}`, kind: KindNeedsPerson, code: "invalid_grant"},
	"error with 200":         {body: `{"error":"invalid_grant"}`, kind: KindNeedsPerson, code: "invalid_grant"},
	"error with 201":         {status: 201, body: `{"error":"temporarily_unavailable"}`, kind: KindTransient, code: "temporarily_unavailable"},
	"error an object":        {status: 400, body: `{"error":{"code":"invalid_grant","message":"{T}"}}`, kind: KindTransient},
	"error an object, 200":   {body: `{"error":{"message":"{T}"},"access_token":"x"}`, kind: KindTransient},
	"error a list":           {status: 400, body: `{"error":["invalid_grant"]}`, kind: KindTransient},
	"error a number":         {status: 400, body: `{"error":190}`, kind: KindTransient},
	"error true":             {body: `{"error":true}`, kind: KindTransient},
	"error in capitals":      {status: 400, body: `{"ERROR":"invalid_grant"}`, kind: KindTransient},
	"error unknown":          {status: 400, body: `{"error":"moon_phase"}`, kind: KindTransient, code: "moon_phase"},
	"error twice":            {status: 400, body: `{"error":"invalid_client","error":"invalid_grant"}`, kind: KindNeedsPerson, code: "invalid_grant"},
	"invalid_grant":          {status: 400, body: `{"error":"invalid_grant"}`, kind: KindNeedsPerson, code: "invalid_grant"},
	"invalid_grant with BOM": {status: 400, body: "\ufeff" + `{"error":"invalid_grant"}`, kind: KindNeedsPerson, code: "invalid_grant"},
	"invalid_scope":          {status: 400, body: `{"error":"invalid_scope"}`, kind: KindConfig, code: "invalid_scope"},

	// What a careless server says.
	"tells the secret":     {status: 401, body: `{"error":"invalid_client","error_description":"no client with secret {S}"}`, kind: KindConfig, code: "invalid_client"},
	"tells the token":      {status: 400, body: `{"error":"invalid_grant","error_description":"unknown token {T}, {T}"}`, kind: KindNeedsPerson, code: "invalid_grant"},
	"tells them encoded":   {status: 400, body: `{"error":"invalid_request","error_description":"token={t}&client_secret={s}"}`, kind: KindConfig, code: "invalid_request"},
	"tells them escaped":   {status: 400, body: `{"error":"invalid_request","error_description":"{escaped}"}`, kind: KindConfig, code: "invalid_request"},
	"tells them as code":   {status: 400, body: `{"error":"{T}","error_description":7}`, kind: KindTransient, code: redacted},
	"tells as a link":      {status: 400, body: `{"error":"invalid_request","error_uri":"https://evil.example/{T}"}`, kind: KindConfig, code: "invalid_request"},
	"tells in the status":  {raw: "HTTP/1.1 400 {T} {S}\r\nContent-Length: 0\r\n\r\n", kind: KindTransient},
	"tells in a header":    {status: 400, header: "X-Error: {T}\r\nSet-Cookie: t={T}\r\n", kind: KindTransient},
	"tells half of it":     {status: 400, body: `{"error":"invalid_request","error_description":"{half}"}`, kind: KindConfig, code: "invalid_request"},
	"control characters":   {status: 400, body: `{"error":"invalid_request","error_description":"a\u001b[2J\u0000\r\nlevel=ERROR\u0085b\u2028c"}`, kind: KindConfig, code: "invalid_request"},
	"directions":           {status: 400, body: `{"error":"invalid_request","error_description":"a\u202eb\u2066c\u200fd"}`, kind: KindConfig, code: "invalid_request"},
	"invalid UTF-8":        {status: 400, body: "{\"error\":\"invalid_request\",\"error_description\":\"a\xff\xfeb\"}", kind: KindConfig, code: "invalid_request"},
	"a novel":              {status: 400, body: `{"error":"invalid_request","error_description":"` + strings.Repeat("word ", 1e5) + `"}`, kind: KindConfig, code: "invalid_request"},
	"description a list":   {status: 400, body: `{"error":"invalid_grant","error_description":["{T}"]}`, kind: KindNeedsPerson, code: "invalid_grant"},
	"Entra, passing":       {status: 400, body: `{"error":"invalid_grant","error_codes":[90033],"trace_id":"{T}","correlation_id":"{S}"}`, kind: KindTransient, code: "invalid_grant"},
	"Entra, passing, 2nd":  {status: 400, body: `{"error":"invalid_grant","error_codes":[1,50196]}`, kind: KindTransient, code: "invalid_grant"},
	"Entra, passing, 1e":   {status: 400, body: `{"error":"invalid_grant","error_codes":[9.0033e4]}`, kind: KindTransient, code: "invalid_grant"},
	"Entra, lasting":       {status: 400, body: `{"error":"invalid_grant","error_codes":[700082]}`, kind: KindNeedsPerson, code: "invalid_grant"},
	"Entra, MFA":           {status: 400, body: `{"error":"interaction_required","error_codes":[50076],"suberror":"basic_action"}`, kind: KindNeedsPerson, code: "interaction_required"},
	"Entra, secret ended":  {status: 401, body: `{"error":"invalid_client","error_codes":[7000222]}`, kind: KindConfig, code: "invalid_client"},
	"Entra, passing other": {status: 400, body: `{"error":"invalid_client","error_codes":[90033]}`, kind: KindConfig, code: "invalid_client"},
	"Entra, codes odd":     {status: 400, body: `{"error":"invalid_grant","error_codes":{"a":[90033]},"suberror":7,"trace_id":[]}`, kind: KindNeedsPerson, code: "invalid_grant"},
	"Entra, codes huge":    {status: 400, body: `{"error":"invalid_grant","error_codes":[-1,1e300,null,"90033",[]]}`, kind: KindNeedsPerson, code: "invalid_grant"},

	// An odd success is one: the provider has ended the old refresh token.
	"expires_in a word":     {body: odd(`"expires_in":"soon"`), kept: true, life: time.Hour},
	"expires_in a string":   {body: odd(`"expires_in":"1800"`), kept: true, life: 30 * time.Minute},
	"expires_in a list":     {body: odd(`"expires_in":[1800]`), kept: true, life: time.Hour},
	"expires_in an object":  {body: odd(`"expires_in":{}`), kept: true, life: time.Hour},
	"expires_in true":       {body: odd(`"expires_in":true`), kept: true, life: time.Hour},
	"expires_in negative":   {body: odd(`"expires_in":-1800`), kept: true, life: time.Hour},
	"expires_in zero":       {body: odd(`"expires_in":0`), kept: true, life: time.Hour},
	"expires_in a fraction": {body: odd(`"expires_in":1800.9`), kept: true, life: 30 * time.Minute},
	"expires_in 1e400":      {body: odd(`"expires_in":1e400`), kept: true, life: time.Hour},
	"expires_in 1e300":      {body: odd(`"expires_in":1e300`), kept: true, life: 365 * 24 * time.Hour},
	"expires_in NaN, text":  {body: odd(`"expires_in":"NaN"`), kept: true, life: time.Hour},
	"expires_in missing":    {body: odd(`"x":1`), kept: true, life: time.Hour},
	"expires_in twice":      {body: odd(`"expires_in":60,"expires_in":1800`), kept: true, life: 30 * time.Minute},
	"another number 1e400":  {body: odd(`"ext_expires_in":1e400`), kept: true, life: time.Hour},
	"token_type missing":    {body: `{"access_token":"{A}","refresh_token":"{R}"}`, kept: true, life: time.Hour},
	"token_type odd":        {body: odd(`"token_type":["mac",null]`), kept: true, life: time.Hour},
	"refresh_token null":    {body: `{"access_token":"{A}","refresh_token":null}`, kept: true, life: time.Hour},
	"refresh_token empty":   {body: `{"access_token":"{A}","refresh_token":""}`, kept: true, life: time.Hour},
	"refresh_token a list":  {body: `{"access_token":"{A}","refresh_token":[]}`, kept: true, life: time.Hour},
	"access_token twice":    {body: odd(`"access_token":"access-late","access_token":"{A}"`), kept: true, life: time.Hour},
	"scope a list":          {body: odd(`"scope":["smtp.send",7,null]`), kept: true, life: time.Hour},
	"scope empty":           {body: odd(`"scope":""`), kept: true, life: time.Hour},
	"scope an object":       {body: odd(`"scope":{"a":1}`), kept: true, life: time.Hour},
	"id_token rubbish":      {body: odd(`"id_token":"..","id_token_expires_in":"x"`), kept: true, life: time.Hour},
	"id_token an object":    {body: odd(`"id_token":{}`), kept: true, life: time.Hour},
	"error null":            {body: odd(`"error":null`), kept: true, life: time.Hour},
	"error empty":           {body: odd(`"error":"","error_description":""`), kept: true, life: time.Hour},
	"deep":                  {body: odd(`"x":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000)), kept: true, life: time.Hour},
	"BOM":                   {body: "\ufeff" + properAnswer, kept: true, life: time.Hour},
	"lines around it":       {body: "\r\n\r\n \t" + properAnswer + "\r\n\r\n", kept: true, life: time.Hour},
	"rubbish after it":      {body: properAnswer + "\n<!-- served in 3 ms -->", kept: true, life: time.Hour},
	"two answers":           {body: properAnswer + `{"error":"server_error"}`, kept: true, life: time.Hour},
	"type text/html":        {header: "Content-Type: text/html\r\n", body: properAnswer, kept: true, life: time.Hour},
	"type twice":            {header: "Content-Type: a\r\nContent-Type: b/c; charset=utf-16\r\n", body: properAnswer, kept: true, life: time.Hour},
	"no type":               {raw: "HTTP/1.0 200\r\n\r\n" + properAnswer, kept: true, life: time.Hour},
	"chunks of an octet": {script: func(c *conn) {
		c.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(c.fill(properAnswer)))
	}, kept: true, life: time.Hour},
}

const properAnswer = `{"access_token":"{A}","refresh_token":"{R}","token_type":"Bearer"}`

// odd is a success with further members.
func odd(members string) string {
	return `{"refresh_token":"{R}",` + members + `,"access_token":"{A}"}`
}

// The table as such: nobody is to thin it out.
func TestHostileCount(t *testing.T) {
	t.Parallel()
	if n := len(hostileAnswers); n < 60 {
		t.Errorf("%d hostile answers, want 60 or more", n)
	}
}

// Whatever a token endpoint answers: the refresh token is sent once, no secret
// shows, the failure has the right class, what came readable is kept, and the
// account works again as soon as the endpoint does, unless the grant is over.
func TestHostileRefresh(t *testing.T) {
	t.Parallel()
	for name, test := range hostileAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				h := f.hostileEndpoint(test)
				f.server.Grace = time.Minute // some answers are lost when the server has acted
				old := f.expired()
				h.token = old.RefreshToken.Reveal()
				s := f.sourceOf(&Cell{}, f.newClient(h.transport()))
				began := time.Now()
				got, err := s.AccessToken(t.Context())
				if took := time.Since(began); took > requestTimeout+time.Second {
					t.Errorf("it took %v", took)
				}
				if n := h.posts(); n != 1 {
					t.Errorf("%d posts, want 1", n)
				}
				now := f.stored()
				want := old.RefreshToken.Reveal()
				if test.kept {
					if err != nil || got != h.access {
						t.Fatalf("AccessToken = %v, want the token that came", err)
					}
					if h.told {
						want = h.refresh
					}
					if now.AccessToken.Reveal() != got || now.life() != test.life {
						t.Errorf("a token of %v is stored, want one of %v", now.life(), test.life)
					}
				} else {
					test.checkFailure(t, err)
					if now.Revoked != (test.kind == KindNeedsPerson) {
						t.Errorf("stored: revoked %v", now.Revoked)
					}
				}
				if now.RefreshToken.Reveal() != want {
					t.Error("the refresh token that is stored is not the newest readable one")
				}
				shown := fmt.Sprintf("%v %+v %s", err, s.Status(t.Context()), f.log.String())
				if now.Failure != nil {
					shown += fmt.Sprintf("%+v", *now.Failure)
				}
				h.checkSecrets(shown)

				stop := f.run(s)
				time.Sleep(max(16*time.Minute, test.wait+time.Minute))
				stop()
				posts := 2
				if test.kept || test.kind == KindNeedsPerson {
					posts = 1
				}
				if n := h.posts(); n != posts {
					t.Errorf("%d posts later, want %d", n, posts)
				}
				if test.kept || test.kind != KindNeedsPerson {
					f.mustToken(s)
				}
				h.checkSecrets(f.log.String())
			})
		})
	}
}

// The same with a code, which is good once and never sent again.
func TestHostileExchange(t *testing.T) {
	t.Parallel()
	for name, test := range hostileAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setUp(t)
				h := f.hostileEndpoint(test)
				h.token = "code-canary+/ü-0123456789"
				c := f.newClient(h.transport())
				g, err := c.exchange(t.Context(), h.token, "verifier-canary-0123456789")
				time.Sleep(time.Hour)
				if n := h.posts(); n != 1 {
					t.Errorf("%d posts, want 1", n)
				}
				h.checkSecrets(fmt.Sprintf("%v %+v", err, c))
				switch {
				case !test.kept:
					test.checkFailure(t, err)
				case err != nil:
					t.Errorf("%v, want the tokens that came", err)
				case g.accessToken != h.access || h.told && g.refreshToken != h.refresh || g.expiresIn != test.life:
					t.Errorf("other tokens than those that came, or a life of %v instead of %v", g.expiresIn, test.life)
				}
			})
		})
	}
}

func (test *hostile) checkFailure(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("%v is no *Error", err)
	}
	if e.Kind != test.kind || e.Code != test.code {
		t.Errorf("%v is %v with code %q; want %v, %q", e, e.Kind, e.Code, test.kind, test.code)
	}
	if d := (e.RetryAfter - test.wait).Abs(); d > 2*time.Second {
		t.Errorf("RetryAfter %v, want %v", e.RetryAfter, test.wait)
	}
	if text := e.Error(); len(text) > 1000 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028'
	}) {
		t.Errorf("not fit to show: %q", text)
	}
}

// hostileEndpoint is a token endpoint over connections in memory: the first
// request gets the hostile answer, further ones the proper one.
type hostileEndpoint struct {
	f     *fixture
	test  hostile
	token string // the refresh token or code

	mu       sync.Mutex
	requests int
	// access and refresh are the answer's tokens, once the server has acted, and
	// told is set when it has told the latter.
	access, refresh string
	told            bool
}

func (f *fixture) hostileEndpoint(test hostile) *hostileEndpoint {
	f.server.Issuer = "http://idp.example.net"
	f.server.ClientSecret = "secret-canary-é&+/ 0123456789"
	return &hostileEndpoint{f: f, test: test}
}

func (h *hostileEndpoint) posts() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.requests
}

// checkSecrets finds what was sent or came in what is shown.
func (h *hostileEndpoint) checkSecrets(shown string) {
	h.f.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	basic := base64.StdEncoding.EncodeToString([]byte(h.f.server.ClientID + ":" + url.QueryEscape(h.f.server.ClientSecret)))
	for _, secret := range []string{h.token, h.f.server.ClientSecret, basic, "verifier-canary", h.access, h.refresh} {
		if secret == "" {
			continue
		}
		secret = secret[:min(len(secret), 14)] // a part tells enough
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), strings.ToLower(url.QueryEscape(secret))} {
			if strings.Contains(shown, form) {
				h.f.t.Errorf("%q shows in %.2000s", form, shown)
			}
		}
	}
}

// transport is the default one, but for its connections.
func (h *hostileEndpoint) transport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	t.DialContext = func(_ context.Context, _, address string) (net.Conn, error) {
		if address != "idp.example.net:80" {
			h.f.t.Errorf("a connection to %s", address)
			return nil, errors.New("no such host")
		}
		here, there := net.Pipe()
		client := &resettable{Conn: here}
		go h.serve(&conn{Conn: there, h: h, client: client})
		return client, nil
	}
	return t
}

// serve answers one request.
func (h *hostileEndpoint) serve(c *conn) {
	defer c.Close()
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	var body []byte
	if body, err = io.ReadAll(r.Body); err == nil {
		c.form, err = url.ParseQuery(string(body))
	}
	if err != nil {
		h.f.t.Error(err)
		return
	}
	h.mu.Lock()
	h.requests++
	first := h.requests == 1
	h.mu.Unlock()
	switch {
	case !first:
		if resp, err := c.proper(); err == nil {
			resp.Close = true
			_ = resp.Write(c)
		}
	case h.test.script != nil:
		h.test.script(c)
	case h.test.raw != "":
		c.write(c.fill(h.test.raw))
	default:
		c.answer(c.fill(h.test.header), c.fill(h.test.body))
	}
}

// conn is the server's end of a connection.
type conn struct {
	net.Conn
	h      *hostileEndpoint
	client *resettable
	form   url.Values
}

// resettable is the client's end.
type resettable struct {
	net.Conn
	broken atomic.Bool
}

func (r *resettable) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	if err != nil && r.broken.Load() {
		err = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return n, err
}

func (c *conn) reset() { c.client.broken.Store(true) }

func (c *conn) write(text string) { _, _ = io.WriteString(c, text) }

func (c *conn) answer(header, body string) {
	status := cmp.Or(c.h.test.status, http.StatusOK)
	c.write(fmt.Sprintf("HTTP/1.1 %d Fine\r\n%sContent-Length: %d\r\n\r\n%s", status, header, len(body), body))
}

// hang waits for the client to leave.
func (c *conn) hang() { _, _ = io.Copy(io.Discard, c) }

// forEver writes the same again and again.
func forEver(begin, again string, pause time.Duration) func(*conn) {
	return func(c *conn) {
		c.write(begin)
		for {
			if _, err := io.WriteString(c, again); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

// proper passes the request to the server that acts as it should.
func (c *conn) proper() (*http.Response, error) {
	r, err := http.NewRequest(http.MethodPost, c.h.f.server.Issuer+tokenstest.PathToken, strings.NewReader(c.form.Encode()))
	if err != nil {
		return nil, err
	}
	return c.h.f.server.RoundTrip(r)
}

// fill puts values into a text. Where it wants tokens, the server acts.
func (c *conn) fill(text string) string {
	h := c.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.access == "" && (strings.Contains(text, "{A}") || strings.Contains(text, "{R}")) {
		if c.form.Has("code") {
			h.access, h.refresh = h.f.server.Issue(h.f.account.User, "smtp.send")
		} else if resp, err := c.proper(); err != nil || resp.StatusCode != http.StatusOK {
			h.f.t.Errorf("the server refuses: %v", err)
		} else {
			var m struct {
				Access  string `json:"access_token"`
				Refresh string `json:"refresh_token"`
			}
			if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
				h.f.t.Error(err)
			}
			h.access, h.refresh = m.Access, m.Refresh
		}
	}
	h.told = h.told || strings.Contains(text, "{R}")
	var escaped strings.Builder
	for _, u := range utf16.Encode([]rune(h.token)) {
		fmt.Fprintf(&escaped, `\u%04x`, u)
	}
	secret := c.form.Get("client_secret")
	return strings.NewReplacer(
		"{A}", h.access, "{R}", h.refresh,
		"{T}", h.token, "{t}", url.QueryEscape(h.token), "{S}", secret, "{s}", url.QueryEscape(secret),
		"{escaped}", escaped.String(), "{half}", h.token[:15],
		"{in2m}", time.Now().UTC().Add(2*time.Minute).Format(http.TimeFormat),
	).Replace(text)
}

func zip(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

// wide is a text in UTF-16.
func wide(text string) string {
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(text)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// chunks is a body in chunks of one octet.
func chunks(text string) string {
	var b strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&b, "1\r\n%c\r\n", text[i])
	}
	return b.String() + "0\r\n\r\n"
}

package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer/mailertest"
)

// hostileInput is a request that must be refused.
type hostileInput struct {
	kind, name, method, target, body string
	header                           map[string]string
	status                           []int
}

// hostileInputs makes requests that must be refused, by kind.
func hostileInputs(t *testing.T) (all []hostileInput) {
	t.Helper()
	kind := ""
	add := func(name, body string, status ...int) {
		all = append(all, hostileInput{kind, name, "POST", "/emails", body, nil, status})
	}
	with := func(name, target, body, header, value string, status ...int) {
		all = append(all, hostileInput{kind, name, "POST", target, body, map[string]string{header: value}, status})
	}
	call := func(method, target, body string, status ...int) {
		all = append(all, hostileInput{kind, method + " " + clipped(target), method, target, body, nil, status})
	}
	const good = `{"from":"sender@example.com","to":["a@example.net"],"subject":"s","text":"t\n","headers":{"X-A":"b"},"attachments":[{"filename":"f","content":"YQ=="}]}`
	member := func(name, raw string) string {
		fields := map[string]string{"to": `"a@example.net"`, "subject": `"s"`, "text": `"t"`}
		fields[name] = raw
		var list []string
		for n, v := range fields {
			list = append(list, fmt.Sprintf("%q:%s", n, v))
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	text := func(s string) string {
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}

	kind = "bad JSON"
	for i := 0; i < len(good); i += 4 {
		add(fmt.Sprintf("cut at %d", i), good[:i], 400)
	}
	for i := 1; i < len(good); i += 4 {
		add(fmt.Sprintf("NUL at %d", i), good[:i]+"\x00"+good[i:], 400, 422)
	}
	for i := 1; i < len(good); i += 8 {
		add(fmt.Sprintf("no UTF-8 at %d", i), good[:i]+"\xc3\x28"+good[i:], 400, 422)
	}
	for _, tail := range []string{"x", "{}", "null", ",", "\x00", "\ufeff"} {
		add("followed by "+tail, good+tail, 400)
		add("preceded by "+tail, tail+good, 400, 422)
	}
	for _, name := range emailNames {
		add(name+" twice", `{"to":"a@example.net","subject":"s","text":"t",`+fmt.Sprintf(`"%s":null,"%s":null}`, name, name), 400)
		add(name+" in upper case", member(strings.ToUpper(name), `"x"`), 400)
		add(name+" with another case, and null", member(strings.ToUpper(name[:1])+name[1:], `null`), 400)
		add(name+" in upper case by an escape", member(name, `"x"`)[:1]+fmt.Sprintf(`"\u%04X%s":"x",`, name[0]-'a'+'A', name[1:])+member("x", "1")[1:], 400)
	}
	kind = "types"
	for _, name := range emailNames {
		if name == "topic_id" {
			continue
		}
		for _, raw := range []string{"1", "true", "[[]]", `[{"a":[]},7]`, `{"":1}`} {
			if (name == "headers" || name == "tags" || name == "oauth_mail") && raw == `{"":1}` {
				continue // it has no known member
			}
			add(name+" "+raw, member(name, raw), 400, 422)
		}
	}
	kind = "addresses"
	for _, name := range []string{"to", "cc", "bcc", "reply_to", "from"} {
		for _, a := range []string{
			"a@example.net>, <b@example.net",
			"", "nobody", "@example.net", "a@", "a@b@c", "a b@example.net", "a@example.net\r\nBcc: x@example.net", "a@example.net\nX: y", "a@exa mple.net",
			"<a@example.net", "a@example.net>", "<a@example.net> <b@example.net>", "a@[127.0.0.1]", "a@127.0.0.1", "a@example.net, b@example.net",
			"g: a@example.net;", "a@-example.net", "a@" + strings.Repeat("x", 64) + ".net", strings.Repeat("x", 65) + "@example.net", "a@exa\x00mple.net",
			"a@example..net", "a\u202e@example.net\x7f", strings.Repeat("(", 1000) + "a@example.net",
		} {
			add(name+" "+clipped(a), member(name, text(a)), 422)
		}
	}
	kind = "injection"
	for _, header := range []string{"X-A", "List-Unsubscribe", "In-Reply-To", "References", "Message-ID", "Thread-Topic"} {
		for _, v := range []string{"a\r\nBcc: x@example.net", "a\nb", "a\rb", "a\x00b", "a\r\n\r\nbody", strings.Repeat("x", 999), "a\u2028\x85\x1bb"} {
			add(header+" "+clipped(v), member("headers", fmt.Sprintf("{%q:%s}", header, text(v))), 422)
		}
	}
	for _, name := range []string{"", "a b", "a:", "X-A\r\nBcc", "X-\x00", "\u00c4", "X-" + strings.Repeat("a", 80), ":", "X-A:b\r\n"} {
		add("header name "+clipped(name), member("headers", "{"+text(name)+`:"v"}`), 422)
	}
	extension := func(name, value string) string { return member("oauth_mail", fmt.Sprintf("{%q:%s}", name, value)) }
	for _, v := range []string{"a\r\nBcc: x@example.net", "a\nBcc: x@example.net", "a\rb", "a\x00b", "a\r\n\r\nbody\r\n.\r\n"} {
		for _, field := range []string{"from", "to", "cc", "reply_to"} {
			add("name in "+field+" "+clipped(v), member(field, text(v+" <sender@example.com>")), 422)
		}
		for _, field := range []string{"filename", "content_type", "content_id"} {
			add(field+" "+clipped(v), member2(fmt.Sprintf(`"content":"YQ==",%q:%s`, field, text(v))), 422)
		}
		add("in_reply_to "+clipped(v), extension("in_reply_to", text("<"+v+"@example.net>")), 422)
		add("references "+clipped(v), extension("references", "["+text("<"+v+"@example.net>")+"]"), 422)
		add("sender "+clipped(v), extension("sender", text(v+" <sender@example.com>")), 422)
		add("method "+clipped(v), extension("ical", `{"method":`+text(v)+`,"content":"BEGIN:VCALENDAR\nEND:VCALENDAR"}`), 422)
		add("priority "+clipped(v), extension("priority", text(v)), 422)
		add("schedule "+clipped(v), member("scheduled_at", text("in 1 hour"+v)), 422)
	}
	kind = "sizes"
	add("header name of 2 KiB", member("headers", "{"+text(strings.Repeat("X", 2000))+`:"v"}`), 400)
	for _, s := range []string{"s\r\nBcc: x@example.net", "s\n", "\x00", strings.Repeat("x", 999), strings.Repeat("\u3042", 400), "a\x1b[2J"} {
		add("subject "+clipped(s), member("subject", text(s)), 422)
	}
	hundred := text(strings.Repeat("x", 100<<10))
	for _, name := range []string{"from", "to", "cc", "reply_to", "subject", "scheduled_at", "template"} {
		add(name+" of 100 KiB", member(name, hundred), 422)
	}
	for _, name := range []string{"in_reply_to", "priority", "sender"} {
		add(name+" of 100 KiB", extension(name, hundred), 422)
	}
	for _, name := range []string{"filename", "content_type", "content_id", "content_disposition"} {
		add(name+" of 100 KiB", member2(fmt.Sprintf(`"content":"YQ==",%q:%s`, name, hundred)), 422)
	}
	list := func(n int, item string) string { return "[" + strings.Repeat(item+",", n-1) + item + "]" }
	for name, raw := range map[string]string{
		"to": list(101, `"a@example.net"`), "cc": list(101, `"a@example.net"`), "bcc": list(100, `"b@example.net"`), "reply_to": list(11, `"a@example.net"`),
		"tags": list(21, `{"name":"a","value":"b"}`), "attachments": list(51, `{"content":"YQ=="}`), "headers": pairsOf(51, `"x"`), "html": text(strings.Repeat("x", 17<<20)),
	} {
		add("many in "+name, member(name, raw), 413, 422)
	}
	add("a tag of 257 octets", member("tags", `[{"name":"a","value":`+text(strings.Repeat("x", 257))+`}]`), 422)
	add("65 KiB of headers", member("headers", `{"X-A":`+text(strings.Repeat("a ", 17<<10))+`,"X-B":`+text(strings.Repeat("a ", 17<<10))+`}`), 422)
	add("101 references", extension("references", list(101, `"<a@example.net>"`)), 422)
	add("101 in the envelope", extension("envelope", `{"to":`+list(101, `"a@example.net"`)+"}"), 422)
	for _, raw := range []string{"headers", "oauth_mail"} {
		add("201 members of "+raw, member(raw, pairsOf(201, `"1"`)), 400, 422)
	}
	add("201 members of an attachment", member("attachments", "["+pairsOf(201, "1")+"]"), 400, 422)
	add("201 members of metadata", extension("metadata", pairsOf(201, `"1"`)), 400, 422)
	add("201 members of an envelope", extension("envelope", pairsOf(201, "1")), 400, 422)
	add("a member's name of 2 KiB", `{"`+strings.Repeat("x", 2000)+`":1}`, 400)
	add("37 MiB", member("text", text(strings.Repeat("x", 37<<20))), 413)
	kind = "MIME and base64"
	attachment := func(member string) string { return member2(member) }
	for _, c := range []string{
		`"***"`, `"A"`, `"AA="`, `"AA=A"`, `"A A A A"`, `"AAAA\u0000"`, `"AAAA\u20ac"`, `[256]`, `[-1]`, `[1.5]`, `[1e1]`, `["1"]`, `[[1]]`, `[01]`, `[1,]`, `[,1]`, `[null]`,
		`{}`, `{"type":"Buffer"}`, `{"data":[1]}`, `{"type":"buffer","data":[1]}`, `{"type":"Buffer","data":"YQ=="}`, `{"type":"Buffer","data":[256]}`,
		`{"type":"Buffer","data":[1],"x":1}`, `true`, `7`, `"data:text/plain,abc"`, `"data:` + strings.Repeat("x", 1000) + `;base64,YQ=="`,
	} {
		add("content "+clipped(c), attachment(`"content":`+c), 400, 422)
	}
	for _, m := range []string{
		`"filename":"a\r\nb"`, `"filename":"a\u0000b"`, `"content_type":"text/plain\r\nX: y"`, `"content_type":"text"`, `"content_type":"` + strings.Repeat("x", 2000) + `/y"`,
		`"content_id":"a b"`, `"content_id":"a>\r\nX: y"`, `"content_disposition":"evil"`, `"path":"file:///etc/passwd"`, `"path":"http://169.254.169.254/"`, `"path":"https://example.com/a"`,
		`"filename":"` + strings.Repeat("x", 100<<10) + `"`,
	} {
		add("attachment "+clipped(m), attachment(`"content":"YQ==",`+m), 422)
	}
	add("no content", attachment(`"filename":"f"`), 422)
	kind = "encodings"
	for name, raw := range map[string]string{
		"half a pair": `"\ud800"`, "second half": `"\udc00"`, "two first halves": `"\ud800\ud800"`, "bad escape": `"\x41"`, "short escape": `"\u12"`, "raw line break": "\"a\nb\"", "raw tab": "\"\t\"",
	} {
		for _, f := range []string{"text", "subject", "from", "future"} {
			add(name+" in "+f, member(f, raw), 400)
		}
	}
	kind = "bad JSON"
	for _, n := range []int{maxDepth + 1, 1000, 100_000} {
		add(fmt.Sprintf("%d brackets", n), member("future", strings.Repeat("[", n)+strings.Repeat("]", n)), 400)
		add(fmt.Sprintf("%d braces", n), member("future", strings.Repeat(`{"a":`, n)+"1"+strings.Repeat("}", n)), 400)
	}
	for _, raw := range []string{"01", "+1", ".5", "1.", "1e", "0x1", "NaN", "Infinity", "-", "'a'", "undefined", "tru", "nul", "/**/1", "1 2"} {
		add("value "+raw, member("future", raw), 400)
		add("header value "+raw, member("headers", `{"X-A":`+raw+`}`), 400)
	}
	add("201 members", manyMembers(201), 400)
	kind = "times"
	for _, v := range []string{"tomorrow", "in 31 days", "2020-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "in -1 min", "", "0", "in 1 hour; DROP TABLE"} {
		add("schedule "+v, member("scheduled_at", text(v)), 422)
	}
	kind = "idempotency"
	for _, v := range []string{
		"", " ", "a b", "a\tb", `""`, strings.Repeat("k", 257), "\u00e9", `"a b"`, `" "`, "\u65e5\u672c", "a\u00a0b", "\u200b", `"` + strings.Repeat("k", 257) + `"`, "a\xffb", strings.Repeat("k", 1000),
	} {
		with("key "+clipped(v), "/emails", good, "Idempotency-Key", v, 400)
		with("key of a batch "+clipped(v), "/emails/batch", "["+good+"]", "Idempotency-Key", v, 400)
	}
	kind = "methods and media types"
	for _, target := range []string{"/emails", "/emails/batch", "/emails/x", "/emails/x/cancel", "/emails/x/attachments", "/t/default/emails"} {
		for _, method := range []string{"PUT", "DELETE", "OPTIONS", "PROPFIND", "post"} {
			call(method, target, good, 405)
		}
	}
	for _, v := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json; x", "*/*", "application/xml", ";;;", "multipart/mixed; boundary=x", "message/partial"} {
		with("type "+v, "/emails", good, "Content-Type", v, 415)
		with("type of a batch "+v, "/emails/batch", "["+good+"]", "Content-Type", v, 415)
	}
	kind = "encodings"
	for _, v := range []string{"br", "deflate", "zstd", "gzip, gzip", "x"} {
		with("encoding "+v, "/emails", good, "Content-Encoding", v, 415)
	}
	with("a bomb", "/emails", zipped(t, strings.Repeat(" ", 40<<20)), "Content-Encoding", "gzip", 413)
	with("no gzip", "/emails", good, "Content-Encoding", "gzip", 400)
	kind = "batches"
	for _, b := range []string{"", "[]", "{}", "null", "[[]]", "[null]", "[1]", "[" + good, "[" + good + ",]", "[" + good + "]x", "[" + good + `,{"to":"nobody","subject":"s","text":"t"}]`, "[" + strings.Repeat("{},", 100) + "{}]"} {
		call("POST", "/emails/batch", b, 400, 422)
		with("lines "+clipped(b), "/emails/batch", strings.ReplaceAll(b, good, "{}"), "Content-Type", "application/x-ndjson", 400, 422)
	}
	kind = "MIME and base64"
	for _, b := range []string{
		"", "x", "To: a@example.net\r\n\r\na\rb", "To: a@example.net\r\n\r\na\x00b", "From: x\r\nTo: a@example.net\r\n\r\n", "Subject: s\r\n\r\nt", "To: nobody\r\n\r\n",
		"From: sender@example.com, b@example.com\r\nTo: a@example.net\r\n\r\n", "From: \"ceo@bank.example\" <sender@example.com>\r\nTo: a@example.net\r\n\r\n",
		"To: a@example.net\r\nX: " + strings.Repeat("x", 999) + "\r\n\r\n", strings.Repeat("X: y\r\n", 50_000), strings.Repeat("Received: x\r\n", 101) + "To: a@example.net\r\n\r\n",
	} {
		with("message "+clipped(b), "/emails", b, "Content-Type", "message/rfc822", 422)
	}
	for _, b := range []string{
		"", "--x--", "--x\r\n\r\n--x--", "--x\r\nContent-Disposition: form-data; name=to\r\n\r\nnobody\r\n--x--",
		"--x\r\nContent-Disposition: form-data; name=message\r\n\r\n{\r\n--x--", "--x\r\nContent-Disposition: form-data; name=headers\r\n\r\n[]\r\n--x--",
		"--x\r\n" + strings.Repeat("X", 1<<20) + ": y\r\n\r\n--x--", strings.Repeat("--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n", 201) + "--x--",
	} {
		with("form "+clipped(b), "/emails", b, "Content-Type", "multipart/form-data; boundary=x", 400, 422)
	}
	kind = "other calls"
	for _, q := range []string{
		"limit=0", "limit=101", "limit=-1", "limit=x", "limit=1e1", "limit=", "limit=99999999999999999999", "after=x", "before=x", "after=", "after=' OR 1=1 --",
		"after=0190a2b4-0000-7000-8000-000000000000&before=0190a2b4-0000-7000-8000-000000000000",
	} {
		call("GET", "/emails?"+strings.ReplaceAll(q, " ", "%20"), "", 422)
	}
	for _, id := range []string{"x", "%00", "%2fetc%2fpasswd", "%3Cscript%3E", "0190a2b4-0000-7000-8000-000000000000", strings.Repeat("x", 5000), "' OR 1=1 --", "%E6%97%A5", "{env.HOME}"} {
		id = strings.NewReplacer(" ", "%20", "{", "%7B", "}", "%7D").Replace(id)
		call("GET", "/emails/"+id, "", 404)
		call("GET", "/emails/"+id+"/attachments", "", 404)
		call("POST", "/emails/"+id+"/cancel", "{}", 404)
		call("PATCH", "/emails/"+id, `{"scheduled_at":"in 1 hour"}`, 404)
	}
	return all
}

// pairsOf is an object of that many members.
func pairsOf(n int, value string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`"X-%d":%s`, i, value)
	}
	return "{" + strings.Join(list, ",") + "}"
}

// member2 is a message with an attachment.
func member2(attachment string) string {
	return `{"to":"a@example.net","subject":"s","text":"t","attachments":[{` + attachment + `}]}`
}

// hostileKinds are how many inputs of a kind there are at least.
var hostileKinds = map[string]int{
	"bad JSON": 80, "types": 60, "injection": 80, "addresses": 120, "MIME and base64": 40, "sizes": 40, "encodings": 30,
	"methods and media types": 20, "idempotency": 30, "batches": 20, "times": 8, "other calls": 40,
}

// TestHostile: 500 hostile inputs and more are refused, by statuses and codes that are
// documented, and nothing is sent. Afterwards all is as before.
func TestHostile(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script))
	documentation, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]int)
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	for _, in := range hostileInputs(t) {
		kinds[in.kind]++
		req, err := http.NewRequestWithContext(t.Context(), in.method, p.URL+in.target, strings.NewReader(in.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {"Bearer " + testKey}, "Content-Type": {"application/json"}}
		for name, value := range in.header {
			req.Header[name] = []string{value}
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", in.name, err)
			continue
		}
		var e struct {
			StatusCode    int
			Name, Message string
			DetailCode    string `json:"detail_code"`
		}
		err = json.NewDecoder(resp.Body).Decode(&e)
		_ = resp.Body.Close()
		if !slices.Contains(in.status, resp.StatusCode) || err != nil || e.StatusCode != resp.StatusCode || e.Name == "" || e.Message == "" {
			t.Errorf("%s: %s: status %d, want %d: %v: %+v", in.kind, in.name, resp.StatusCode, in.status, err, e)
		}
		for _, word := range []string{e.Name, e.DetailCode} {
			if word != "" && !strings.Contains(string(documentation), "`"+word+"`") {
				t.Errorf("%s: %s: %q is not documented: %+v", in.kind, in.name, word, e)
			}
		}
		if resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("X-Content-Type-Options") != "nosniff" || len(e.Message) > 2000 {
			t.Errorf("%s: %s: an answer of %d octets with the header %v", in.kind, in.name, len(e.Message), resp.Header)
		}
	}
	total := 0
	for kind, least := range hostileKinds {
		if total += kinds[kind]; kinds[kind] < least {
			t.Errorf("%s: %d inputs, there must be %d", kind, kinds[kind], least)
		}
		delete(kinds, kind)
	}
	t.Logf("%d inputs", total)
	if total < 500 || len(kinds) > 0 {
		t.Errorf("%d inputs, and %v", total, kinds)
	}
	if n := len(script.Contents()); n != 0 {
		t.Errorf("%d messages were sent", n)
	}
	if said := grepLines(p.output.String(), "panic", `"level":"error"`); said != "" {
		t.Errorf("the log tells:\n%s", said)
	}
	accepted(t, p.post(mailBody), 200, "sent")
}

// TestOneKey: a hundred equal requests at once with one Idempotency-Key are one message.
func TestOneKey(t *testing.T) {
	t.Parallel()
	script := new(mailertest.Script)
	p := startCaddy(t, scripted(t, script))
	var group sync.WaitGroup
	var mu sync.Mutex
	statuses, ids := make(map[int]int), make(map[string]int)
	for range 100 {
		group.Go(func() {
			got := p.do("POST", "/emails", map[string]string{"Authorization": "Bearer " + testKey, "Content-Type": "application/json", "Idempotency-Key": "one"}, mailBody)
			var v sent
			_ = json.Unmarshal([]byte(got.body), &v)
			mu.Lock()
			defer mu.Unlock()
			statuses[got.status]++
			if got.status == 200 {
				ids[v.ID]++
			}
		})
	}
	group.Wait()
	if statuses[200] < 1 || statuses[200]+statuses[409] != 100 || len(ids) != 1 {
		t.Errorf("statuses %v, ids %v", statuses, ids)
	}
	if n := len(script.Contents()); n != 1 {
		t.Errorf("%d messages were sent", n)
	}
}

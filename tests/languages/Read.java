// As read.js, with Java's propagators.
import io.opentelemetry.api.baggage.Baggage;
import io.opentelemetry.api.baggage.propagation.W3CBaggagePropagator;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.context.propagation.TextMapGetter;
import io.opentelemetry.context.propagation.TextMapPropagator;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

class Read {
  static String plain(String word) {
    return new String(Base64.getDecoder().decode(word), StandardCharsets.UTF_8);
  }

  static String word(String text) {
    String all = text == null ? "" : text;
    String word = Base64.getEncoder().encodeToString(all.getBytes(StandardCharsets.UTF_8));
    return word.isEmpty() ? "-" : word;
  }

  static final TextMapGetter<Map<String, String>> GETTER =
      new TextMapGetter<>() {
        public Iterable<String> keys(Map<String, String> carrier) {
          return carrier.keySet();
        }

        public String get(Map<String, String> carrier, String key) {
          return carrier.get(key);
        }
      };

  public static void main(String[] arguments) throws Exception {
    TextMapPropagator propagator =
        TextMapPropagator.composite(
            W3CTraceContextPropagator.getInstance(), W3CBaggagePropagator.getInstance());
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      String[] words = line.split(" ", -1);
      String[] names = {"traceparent", "tracestate", "baggage"};
      Map<String, String> carrier = new HashMap<>();
      for (int i = 0; i < names.length; i++) {
        if (!words[i].isEmpty()) carrier.put(names[i], plain(words[i]));
      }
      Context context = propagator.extract(Context.root(), carrier, GETTER);
      Map<String, String> written = new HashMap<>();
      propagator.inject(context, written, Map::put);
      List<String> said = new ArrayList<>();
      for (String name : names) said.add(word(written.get(name)));
      Baggage.fromContext(context)
          .forEach((key, entry) -> said.add(word(key) + ":" + word(entry.getValue())));
      System.out.println(String.join(" ", said));
    }
  }
}
